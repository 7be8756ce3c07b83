//! A thread that puts objects, many at a time.

#![forbid(unsafe_code)]

use crate::handover::erase::{Likeness, Outcome, compare, erase_requested};
use crate::handover::erasures::Erasure;
use crate::handover::sink::{Change, Listed, ObjectSink, SinkError, Stored};
use crate::handover::slice::{ObjectKind, ObjectName};
use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use tokio::sync::mpsc as queue;

/// What became of an object.
#[derive(Debug)]
pub(in crate::handover) struct Acknowledged {
    pub(in crate::handover) name: ObjectName,
    pub(in crate::handover) size: u64,
    pub(in crate::handover) stored: Result<Stored, SinkError>,
}

/// What the thread is asked to do.
enum Order {
    Put { name: ObjectName, bytes: Bytes, tail_size: usize },
    List { prefix: String, answer: mpsc::Sender<Result<Vec<Listed>, SinkError>> },
    Erase { requests: Vec<(PathBuf, Erasure)>, answer: mpsc::Sender<ErasureAnswer> },
}

/// What became of calls to erase.
pub(in crate::handover) type ErasureAnswer = Result<Outcome, SinkError>;

/// The thread's other side. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::handover) struct Sender {
    sink: Arc<ObjectSink>,
    orders: queue::UnboundedSender<Order>,
    acknowledged: mpsc::Receiver<Acknowledged>,
    /// Puts that are not acknowledged, and their bytes.
    count: usize,
    size: usize,
}

type Putting<'a> = Pin<Box<dyn Future<Output = Acknowledged> + 'a>>;
type Erasing<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

impl Sender {
    /// Starts the thread. It makes `jobs` puts at a time.
    pub(in crate::handover) fn start(sink: Arc<ObjectSink>, jobs: usize) -> io::Result<Sender> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, ordered) = queue::unbounded_channel();
        let (tell, acknowledged) = mpsc::channel();
        let of_thread = Arc::clone(&sink);
        std::thread::Builder::new()
            .name("sender".into())
            .spawn(move || runtime.block_on(work(&of_thread, jobs, ordered, &tell)))?;
        Ok(Sender { sink, orders, acknowledged, count: 0, size: 0 })
    }

    pub(in crate::handover) fn sink(&self) -> &ObjectSink {
        &self.sink
    }

    /// Puts that are not acknowledged.
    pub(in crate::handover) fn count(&self) -> usize {
        self.count
    }

    /// Their bytes.
    pub(in crate::handover) fn size(&self) -> usize {
        self.size
    }

    /// Puts an object. [`Sender::acknowledged`] says what became of it.
    pub(in crate::handover) fn put(&mut self, name: ObjectName, bytes: Bytes, tail_size: usize) {
        (self.count, self.size) = (self.count + 1, self.size + bytes.len());
        // The thread lives as long as this.
        let _ = self.orders.send(Order::Put { name, bytes, tail_size });
    }

    /// Waits for the next acknowledgement, in any order. There must be one to come.
    pub(in crate::handover) fn acknowledged(&mut self) -> io::Result<Acknowledged> {
        let acknowledged = self.acknowledged.recv().map_err(|_| ended())?;
        Ok(self.count_acknowledged(acknowledged))
    }

    /// The next acknowledgement, if there is one.
    pub(in crate::handover) fn poll_acknowledged(&mut self) -> io::Result<Option<Acknowledged>> {
        match self.acknowledged.try_recv() {
            Ok(acknowledged) => Ok(Some(self.count_acknowledged(acknowledged))),
            Err(mpsc::TryRecvError::Empty) => Ok(None),
            Err(mpsc::TryRecvError::Disconnected) => Err(ended()),
        }
    }

    fn count_acknowledged(&mut self, acknowledged: Acknowledged) -> Acknowledged {
        self.count -= 1;
        self.size -= usize::try_from(acknowledged.size).unwrap_or(0);
        acknowledged
    }

    /// Lists objects, before anything else is put.
    pub(in crate::handover) fn list(
        &self,
        prefix: String,
    ) -> io::Result<Result<Vec<Listed>, SinkError>> {
        self.list_while(prefix, Duration::MAX, || ())
    }

    /// Lists objects. Until the answer is there, calls `meanwhile` once in each `pause`.
    pub(in crate::handover) fn list_while(
        &self,
        prefix: String,
        pause: Duration,
        mut meanwhile: impl FnMut(),
    ) -> io::Result<Result<Vec<Listed>, SinkError>> {
        let (answer, answered) = mpsc::channel();
        let _ = self.orders.send(Order::List { prefix, answer });
        loop {
            match answered.recv_timeout(pause) {
                Ok(listed) => return Ok(listed),
                Err(mpsc::RecvTimeoutError::Timeout) => meanwhile(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Err(ended()),
            }
        }
    }
}

impl Sender {
    /// Erases calls, beside what is put. The answer comes to the receiver.
    pub(in crate::handover) fn erase(
        &self,
        requests: Vec<(PathBuf, Erasure)>,
    ) -> mpsc::Receiver<ErasureAnswer> {
        let (answer, answered) = mpsc::channel();
        let _ = self.orders.send(Order::Erase { requests, answer });
        answered
    }
}

/// The thread panicked. Its message is on standard error.
fn ended() -> io::Error {
    io::Error::other("it ended by itself")
}

/// The body of the thread.
async fn work(
    sink: &ObjectSink,
    jobs: usize,
    mut ordered: queue::UnboundedReceiver<Order>,
    tell: &mpsc::Sender<Acknowledged>,
) {
    let (mut waiting, mut putting) = (VecDeque::new(), FuturesUnordered::<Putting<'_>>::new());
    let mut erasing = FuturesUnordered::<Erasing<'_>>::new();
    loop {
        while putting.len() < jobs.max(1)
            && let Some(next) = waiting.pop_front()
        {
            putting.push(next);
        }
        tokio::select! {
            Some(acknowledged) = putting.next(), if !putting.is_empty() => {
                if tell.send(acknowledged).is_err() {
                    return;
                }
            }
            Some(()) = erasing.next(), if !erasing.is_empty() => {}
            order = ordered.recv() => match order {
                Some(Order::Put { name, bytes, tail_size }) => {
                    waiting.push_back(put(sink, name, bytes, tail_size).boxed_local());
                }
                Some(Order::List { prefix, answer }) => {
                    let _ = answer.send(sink.list(&prefix).await);
                }
                Some(Order::Erase { requests, answer }) => {
                    erasing.push(
                        async move {
                            let _ = answer.send(erase_requested(sink, requests).await);
                        }
                        .boxed_local(),
                    );
                }
                // Whatever is under way is not waited for: it can be sent again.
                None => return,
            },
        }
    }
}

async fn put(sink: &ObjectSink, name: ObjectName, bytes: Bytes, tail_size: usize) -> Acknowledged {
    let size = bytes.len() as u64;
    let stored = match sink.put(&name.to_string(), bytes.clone(), tail_size).await {
        Err(SinkError::Differs(told)) if name.kind == ObjectKind::Slice => {
            settle(sink, &name, bytes, told).await
        }
        stored => stored,
    };
    Acknowledged { name, size, stored }
}

/// A slice of this name is there, with other bytes. It may be the same for all that matters: a
/// cursor that was not written before a crash makes us send it again, when more is known of it. If
/// audio in it was erased since, ours replaces it. Anything else that differs is an error.
async fn settle(
    sink: &ObjectSink,
    name: &ObjectName,
    bytes: Bytes,
    told: String,
) -> Result<Stored, SinkError> {
    let name = name.to_string();
    let changed = sink.change(&name, |theirs| match compare(theirs, &bytes) {
        Likeness::Same => Ok(None),
        Likeness::Older => Ok(Some((bytes.clone(), ()))),
        Likeness::Other => Err(()),
    });
    match changed.await? {
        Ok(Change::Made(())) => Ok(Stored::New),
        Ok(Change::Nothing) => Ok(Stored::Before),
        Ok(Change::Gone) | Err(()) => Err(SinkError::Differs(told)),
    }
}

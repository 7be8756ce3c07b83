//! The kernel's ring with real sockets and a real file, on both kernel paths.
#![forbid(unsafe_code)]

use super::*;
use crate::constants::REGISTERED_WRITE_SIZE_MAX;
use crate::io::OpKind;
use crate::io::probe::{KernelFeatures, probe};
use crate::io::socket::listen_on;
use std::io::{Read, Write};
use std::net::TcpStream;

const BOTH: [KernelFeatures; 2] = [KernelFeatures::Newest, KernelFeatures::V6_1];

fn uring(features: KernelFeatures) -> (SocketAddr, Uring) {
    let (address, mut listeners) = listen_on("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let wake = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let config = UringConfig {
        features: probe(features).unwrap(),
        listener: listeners.remove(0),
        wake: Arc::new(wake),
        connections_max: 16,
        slot_size: 256,
        slot_count: 4,
        completions_per_turn: 64,
    };
    (address, Uring::new(config).unwrap())
}

/// Waits at most 5 s for one completion.
fn next(uring: &mut Uring) -> Completion {
    for _ in 0..500 {
        if let Some(completion) = uring.completion() {
            return completion;
        }
        let limit = Some(Duration::from_millis(10));
        uring.submit(Wait::Gather { want: 1, gather: Duration::ZERO, limit }).unwrap();
    }
    panic!("no completion came in 5 s");
}

fn accept(uring: &mut Uring) -> Socket {
    let completion = next(uring);
    assert_eq!(completion.user_data.kind, OpKind::Accept);
    assert!(!completion.more);
    Socket(completion.result.unwrap() as i32)
}

#[test]
fn bytes_come_and_go_in_order_on_both_paths() {
    for features in BOTH {
        let (address, mut uring) = uring(features);
        uring.accept(UserData::lone(OpKind::Accept));
        uring.submit(Wait::No).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let socket = accept(&mut uring);
        assert_eq!(uring.peer_address(socket), Some(client.local_addr().unwrap()));
        let receive = UserData::new(OpKind::Receive, 7, 1);
        uring.receive(socket, receive);
        let sent: Vec<u8> = (0..3_000_000u32).map(|i| ((i * 7) >> 3) as u8).collect();
        let writer = std::thread::spawn({
            let (mut client, sent) = (client.try_clone().unwrap(), sent.clone());
            move || client.write_all(&sent).unwrap()
        });
        let mut got = Vec::new();
        while got.len() < sent.len() {
            let completion = next(&mut uring);
            assert_eq!(completion.user_data, receive);
            if completion.result == Err(Errno::NOBUFS) {
                uring.receive(socket, receive);
                continue;
            }
            let received = completion.received.unwrap();
            got.extend_from_slice(uring.received(&received));
            uring.recycle(received);
            if !completion.more {
                uring.receive(socket, receive);
            }
        }
        writer.join().unwrap();
        assert!(got == sent, "received bytes differ from those sent ({features:?})");

        let slot = uring.acquire_slot().unwrap();
        uring.slot(&slot)[..5].copy_from_slice(b"hello");
        uring.send(socket, &slot, 5, UserData::new(OpKind::Send, 7, 1));
        let completion = next(&mut uring);
        assert_eq!((completion.user_data.kind, completion.result), (OpKind::Send, Ok(5)));
        uring.release_slot(slot);
        let mut answer = [0; 5];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
    }
}

#[test]
fn a_wait_without_completions_lasts_until_its_limit() {
    for features in BOTH {
        let (address, mut uring) = uring(features);
        let gather = Duration::from_micros(500);
        for limit in [None, Some(Duration::from_secs(5))] {
            uring.accept(UserData::lone(OpKind::Accept));
            // The older path learns from one wait without a completion that there is nothing to
            // gather.
            uring.submit(Wait::Gather { want: 8, gather, limit: Some(gather) }).unwrap();
            let client = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(300));
                TcpStream::connect(address).unwrap()
            });
            let mut waits = 0;
            let accepted = loop {
                if let Some(completion) = uring.completion() {
                    break completion;
                }
                uring.submit(Wait::Gather { want: 8, gather, limit }).unwrap();
                waits += 1;
            };
            assert_eq!(accepted.user_data.kind, OpKind::Accept);
            assert!(
                waits <= 3,
                "{waits} waits until the one thing came ({features:?}, limit {limit:?})"
            );
            client.join().unwrap();
        }
    }
}

#[test]
fn many_sockets_share_the_receive_buffers_without_mixing_bytes() {
    for features in BOTH {
        let (address, mut uring) = uring(features);
        // All of them wait on the same listener, and each connection wakes one.
        (0..8).for_each(|index| uring.accept(UserData::of_slot(OpKind::Accept, index)));
        uring.submit(Wait::No).unwrap();
        let mut writers = Vec::new();
        let mut sockets = Vec::new();
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(TcpStream::connect(address).unwrap());
            sockets.push(accept(&mut uring));
        }
        for (index, mut client) in (0..8u8).zip(clients) {
            uring.receive(
                sockets[usize::from(index)],
                UserData::new(OpKind::Receive, u32::from(index), 1),
            );
            writers.push(std::thread::spawn(move || {
                for round in 0..200u32 {
                    client.write_all(&vec![index + 1; 1 + (round as usize * 97) % 9_600]).unwrap();
                }
            }));
        }
        let expected: usize =
            (0..200usize).map(|round| 1 + (round * 97) % 9_600).sum::<usize>() * 8;
        let mut got = 0;
        while got < expected {
            let completion = next(&mut uring);
            let index = completion.user_data.index;
            if let Some(received) = completion.received {
                let bytes = uring.received(&received);
                assert!(
                    bytes.iter().all(|byte| u32::from(*byte) == index + 1),
                    "bytes of another socket"
                );
                got += bytes.len();
                uring.recycle(received);
            } else {
                assert!(matches!(completion.result, Ok(0) | Err(Errno::NOBUFS)), "{completion:?}");
            }
            if !completion.more && completion.result != Ok(0) {
                uring.receive(sockets[index as usize], completion.user_data);
            }
        }
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    }
}

/// Linux 6.13 and later bring 20 completions to a call that does not wait, unless asked again.
#[test]
fn a_submit_that_does_not_wait_brings_all_that_a_turn_reaps() {
    for features in BOTH {
        let (address, mut uring) = uring(features);
        let mut clients = Vec::new();
        for index in 0..60 {
            uring.accept(UserData::lone(OpKind::Accept));
            uring.submit(Wait::No).unwrap();
            clients.push(TcpStream::connect(address).unwrap());
            let socket = accept(&mut uring);
            uring.receive(socket, UserData::new(OpKind::Receive, index, 1));
        }
        uring.submit(Wait::No).unwrap();
        assert!(uring.completion().is_none());
        for client in &mut clients {
            client.write_all(b"here").unwrap();
        }
        // On loopback the bytes are there once write has returned.
        uring.submit(Wait::No).unwrap();
        let mut count = 0;
        while let Some(completion) = uring.completion() {
            assert_eq!(completion.user_data.kind, OpKind::Receive);
            uring.recycle(completion.received.expect("bytes came"));
            count += 1;
        }
        assert_eq!(count, 60, "{features:?}");
    }
}

#[test]
fn a_full_socket_refuses_at_once_and_takes_the_rest_later() {
    let (address, mut uring) = uring(KernelFeatures::Newest);
    uring.accept(UserData::lone(OpKind::Accept));
    uring.submit(Wait::No).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let socket = accept(&mut uring);
    let slot = uring.acquire_slot().unwrap();
    let mut sent = 0;
    loop {
        uring.send(socket, &slot, 256, UserData::new(OpKind::Send, 0, 1));
        match next(&mut uring).result {
            Ok(size) => sent += size as usize,
            Err(error) => {
                assert_eq!(error, Errno::AGAIN);
                break;
            }
        }
    }
    let rest = UserData::new(OpKind::SendRest, 0, 1);
    uring.send_rest(socket, BytesMut::from(&b"the rest"[..]), rest);
    uring.submit(Wait::No).unwrap();
    assert!(uring.completion().is_none(), "there is no room yet");
    let mut drained = vec![0; sent + 8];
    let reader = std::thread::spawn(move || {
        client.read_exact(&mut drained).unwrap();
        drained
    });
    let completion = next(&mut uring);
    assert_eq!((completion.user_data, completion.result), (rest, Ok(8)));
    assert_eq!(&uring.take_rest(rest)[..], b"the rest");
    assert!(reader.join().unwrap().ends_with(b"the rest"));
}

#[test]
fn a_cancelled_receive_lets_the_fin_go_out() {
    let (address, mut uring) = uring(KernelFeatures::Newest);
    uring.accept(UserData::lone(OpKind::Accept));
    uring.submit(Wait::No).unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    let socket = accept(&mut uring);
    let receive = UserData::new(OpKind::Receive, 0, 1);
    uring.receive(socket, receive);
    uring.cancel(receive, UserData::new(OpKind::Cancel, 0, 1));
    let kinds = [next(&mut uring), next(&mut uring)].map(|completion| completion.user_data.kind);
    assert!(kinds.contains(&OpKind::Receive) && kinds.contains(&OpKind::Cancel));
    uring.close(socket);
    uring.submit(Wait::No).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert!(uring.completion().is_none(), "a close that works does not complete");
}

#[test]
fn the_mailbox_wakes_a_waiting_ring() {
    let (_, mut uring) = uring(KernelFeatures::Newest);
    uring.await_wake(UserData::lone(OpKind::Wake));
    let wake = Arc::clone(&uring.wake);
    let waker = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        rustix::io::write(&wake, &1u64.to_ne_bytes()).unwrap();
    });
    uring
        .submit(Wait::Gather {
            want: 1,
            gather: Duration::ZERO,
            limit: Some(Duration::from_secs(5)),
        })
        .unwrap();
    assert_eq!(uring.completion().map(|completion| completion.user_data.kind), Some(OpKind::Wake));
    waker.join().unwrap();
}

#[test]
fn frame_ring_memory_is_written_and_synced_registered_or_not() {
    for register in [true, false] {
        let (_, mut uring) = uring(KernelFeatures::Newest);
        let mut region = Region::allocate(8192).unwrap();
        region[4096..8192].fill(9);
        if register {
            assert!(uring.use_frame_ring(&region, false).unwrap());
        } else {
            let scratch = Region::allocate(SCRATCH_SIZE_MAX).unwrap();
            uring.frame_ring =
                Some(FrameRingMemory { lease: region.lease(), scratch, pieces: None });
        }
        let file = tempfile::tempfile().unwrap();
        let handle = FileHandle(file.as_raw_fd());
        let source = WriteSource::FrameRing;
        let write = FileWrite { file: handle, source, start: 4096, size: 4096, offset: 100 };
        uring.write(write, UserData::lone(OpKind::Write));
        assert_eq!(next(&mut uring).result, Ok(4096));
        uring.sync(handle, UserData::lone(OpKind::Sync));
        assert_eq!(next(&mut uring).result, Ok(0));
        let mut written = vec![0; 4096];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut written, 100).unwrap();
        assert!(written.iter().all(|byte| *byte == 9));

        uring.scratch()[64..128].fill(5);
        let source = WriteSource::Scratch;
        let write = FileWrite { file: handle, source, start: 64, size: 64, offset: 8 };
        uring.write(write, UserData::lone(OpKind::Write));
        assert_eq!(next(&mut uring).result, Ok(64));
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut written[..64], 8).unwrap();
        assert!(written[..64].iter().all(|byte| *byte == 5));
    }
}

/// Writes `size` bytes from each of `starts`, and compares what the file holds.
#[track_caller]
fn write_and_compare(uring: &mut Uring, region: &Region, starts: &[usize], size: usize) {
    let file = tempfile::tempfile().unwrap();
    let handle = FileHandle(file.as_raw_fd());
    let mut written = vec![0; size];
    for start in starts {
        let source = WriteSource::FrameRing;
        let write = FileWrite { file: handle, source, start: *start, size, offset: 0 };
        uring.write(write, UserData::lone(OpKind::Write));
        assert_eq!(next(uring).result, Ok(size as u32), "from {start}");
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut written, 0).unwrap();
        assert!(written == region[*start..start + size], "from {start}");
    }
}

/// Memory in which every block differs from its neighbours.
fn numbered(size: usize) -> Region {
    let mut region = Region::allocate(size).unwrap();
    region
        .chunks_mut(4096)
        .zip(1u64..)
        .for_each(|(block, number)| block[..8].copy_from_slice(&number.to_le_bytes()));
    region
}

#[test]
fn a_write_across_the_boundary_of_registered_pieces_arrives_whole() {
    let overlap = REGISTERED_WRITE_SIZE_MAX;
    let (_, mut uring) = uring(KernelFeatures::Newest);
    let region = numbered(4 * overlap);
    let pieces = Pieces::with_piece_size(region.len(), 2 * overlap);
    assert_eq!(pieces.count(), 3);
    assert!(uring.use_frame_ring_in(pieces, &region, false).unwrap());
    let starts = [0, overlap / 2, overlap, overlap + overlap / 2, 2 * overlap + 4096, 3 * overlap];
    write_and_compare(&mut uring, &region, &starts, overlap);
    // A write larger than the overlap may not fit any piece: then it uses no registered piece.
    let memory = uring.frame_ring.as_ref().unwrap();
    assert_eq!(
        (memory.index_of(overlap + 4096, overlap), memory.index_of(4096, 2 * overlap)),
        (Some(2), None)
    );
    write_and_compare(&mut uring, &region, &[4096], 2 * overlap);
}

/// The kernel refuses a single buffer of that size with `EFAULT`.
#[test]
fn a_ring_over_a_gigabyte_is_registered_and_written_from() {
    const SIZE: usize = (1 << 30) + (64 << 20);
    let (_, mut uring) = uring(KernelFeatures::Newest);
    let region = numbered(SIZE);
    match uring.use_frame_ring(&region, false) {
        Ok(registered) => assert!(registered),
        Err(HostError::LockedMemory { .. }) => {
            return println!("left out: this process may not lock so much memory");
        }
        Err(error) => panic!("{error}"),
    }
    let size = REGISTERED_WRITE_SIZE_MAX;
    let starts = [0, (1 << 30) - size, (1 << 30) - size / 2, 1 << 30, SIZE - size];
    assert!(
        starts.iter().all(|start| uring
            .frame_ring
            .as_ref()
            .unwrap()
            .index_of(*start, size)
            .is_some())
    );
    write_and_compare(&mut uring, &region, &starts, size);
}

#[test]
fn an_idle_ring_on_the_older_path_sleeps_to_its_limit() {
    let (_, mut uring) = uring(KernelFeatures::V6_1);
    let before = uring.now().moment;
    let limit = Some(Duration::from_millis(30));
    uring.submit(Wait::Gather { want: 8, gather: Duration::from_micros(500), limit }).unwrap();
    assert!(uring.now().moment.since(before) >= Duration::from_millis(29));
    // The wait, and a check for what the kernel deferred meanwhile.
    assert_eq!(uring.system_calls(), 2);
}

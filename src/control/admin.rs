#![forbid(unsafe_code)]
//! The admin listener: whether the node is ready, what it has counted, how long things took. HTTP/1.1 on a port of its own,
//! read only, without authentication: it belongs on a loopback or private address.
//!
//! ```text
//! GET /ready                 200 or 503, and why not                             ready.rs
//! GET /metrics               OpenMetrics text                                    families.rs, exposition.rs
//! GET /debug/latency.hlog    HdrHistogram's interval log, since the start        percentiles.rs
//! GET /debug/latency.hgrm    percentile distributions, ?tag=ack for one          percentiles.rs
//! ```
//! A client costs the node a task and a descriptor, and no more than `CONNECTIONS_MAX` of them. Where they are all taken the
//! one that was idle for longest makes way, so that forgotten connections never keep a scrape out.

mod exposition;
mod families;
mod percentiles;
mod process;
mod ready;
mod status;

pub use status::Facts;
pub(super) use status::Status;

use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// Connections served at a time. `node.rs` keeps descriptors for so many.
const CONNECTIONS_MAX: usize = 32;

/// From accept to the end of the first request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// From one request to the next, its response included: longer than the interval of any usual scrape.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// What a request head may take.
const HEAD_SIZE_MAX: usize = 8 << 10;
const FIELDS_MAX: usize = 64;

/// After an accept that failed, for want of descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why there is no admin listener.
#[derive(Debug)]
pub struct AdminError {
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AdminError { address, error } = self;
        match error.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "the admin address {address} is in use by another program, perhaps another node: choose another one with \
                 --admin, or --admin off"
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "the admin address {address} is no address of this host: choose one that is with --admin")
            }
            io::ErrorKind::PermissionDenied => {
                write!(f, "not allowed to listen on {address}: choose a port above 1023 with --admin")
            }
            _ => write!(f, "cannot listen on the admin address {address}: {error}: choose another one with --admin"),
        }
    }
}

impl std::error::Error for AdminError {}

/// A bound admin address. Who connects waits until it is served.
#[derive(Debug)]
pub(super) struct AdminListener {
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl AdminListener {
    /// Port 0 takes a free one.
    pub fn bind(address: SocketAddr) -> Result<AdminListener, AdminError> {
        let bind = || {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(AdminListener { address: socket.local_addr()?, socket })
        };
        bind().map_err(|error| AdminError { address, error })
    }

    /// With the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves for as long as the runtime runs.
pub(super) async fn serve(listener: AdminListener, status: Rc<Status>) {
    let listener = match TcpListener::from_std(listener.socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!("the admin listener cannot be served: {error}"),
    };
    let clients = Rc::new(Clients::default());
    loop {
        match listener.accept().await {
            Ok((socket, _)) => clients.add(socket, &status),
            // The peer's own failure: the next one may be there already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// The connections that are served.
#[derive(Default)]
struct Clients {
    open: RefCell<Vec<Client>>,
    next_number: Cell<u64>,
}

struct Client {
    number: u64,
    task: AbortHandle,
    /// When it connected, or sent its last request.
    active_at: Rc<Cell<Instant>>,
}

impl Clients {
    fn add(self: &Rc<Self>, socket: TcpStream, status: &Rc<Status>) {
        if self.open.borrow().len() >= CONNECTIONS_MAX {
            self.remove_idlest();
        }
        let number = self.next_number.replace(self.next_number.get() + 1);
        let active_at = Rc::new(Cell::new(Instant::now()));
        let place = Place { clients: Rc::clone(self), number };
        let client = talk(socket, Rc::clone(status), Rc::clone(&active_at), place);
        let task = tokio_uring::spawn(client).abort_handle();
        self.open.borrow_mut().push(Client { number, task, active_at });
    }

    fn remove_idlest(&self) {
        let mut open = self.open.borrow_mut();
        let idlest = open.iter().enumerate().min_by_key(|(_, client)| client.active_at.get());
        if let Some((index, _)) = idlest {
            open.swap_remove(index).task.abort();
        }
    }
}

/// A client's place among the others; given back when its task ends, however it does.
struct Place {
    clients: Rc<Clients>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.open.borrow_mut().retain(|client| client.number != self.number);
    }
}

/// Serves one connection until it ends, or has asked for nothing for too long. That also bounds a client that does not read.
async fn talk(socket: TcpStream, status: Rc<Status>, active_at: Rc<Cell<Instant>>, _place: Place) {
    let deadline = Rc::new(Cell::new(active_at.get() + HEAD_TIMEOUT));
    let service = service_fn(|request| {
        active_at.set(Instant::now());
        deadline.set(active_at.get() + IDLE_TIMEOUT);
        let status = Rc::clone(&status);
        async move { Ok::<_, Infallible>(respond(&status, &request).await) }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_buf_size(HEAD_SIZE_MAX).max_headers(FIELDS_MAX);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(socket), service));
    loop {
        tokio::select! {
            // What went wrong on it is the client's affair.
            _ = &mut connection => return,
            () = sleep_until(deadline.get()) => {
                if deadline.get() <= Instant::now() {
                    return;
                }
            }
        }
    }
}

async fn respond(status: &Status, request: &Request<Incoming>) -> Response<String> {
    let path = request.uri().path();
    if !matches!(path, "/ready" | "/metrics" | "/debug/latency.hlog" | "/debug/latency.hgrm") {
        let routes = "the routes here are /ready, /metrics, /debug/latency.hlog and /debug/latency.hgrm\n";
        return answer(StatusCode::NOT_FOUND, TEXT, routes.into());
    }
    // Of HEAD hyper leaves the body out, and says its length.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return close(response);
    }
    if !request.body().is_end_stream() {
        return close(answer(StatusCode::BAD_REQUEST, TEXT, "send no body\n".into()));
    }
    let failed = |error: &dyn fmt::Display| answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"));
    match path {
        "/ready" => {
            let reasons = status.reasons();
            let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            match ready::document(status, &reasons) {
                Ok(text) => answer(code, JSON, text),
                Err(error) => failed(&error),
            }
        }
        "/metrics" => match exposition::text(status.families().await) {
            Ok(text) => answer(StatusCode::OK, OPENMETRICS, text),
            Err(error) => failed(&error),
        },
        "/debug/latency.hlog" => match status.with_latencies(|all| percentiles::log(all, status.started())).await {
            Ok(text) => answer(StatusCode::OK, TEXT, text),
            Err(error) => failed(&error),
        },
        _ => {
            let query = request.uri().query().unwrap_or_default();
            let tag = query.split('&').find_map(|pair| pair.strip_prefix("tag="));
            match status.with_latencies(|all| percentiles::distributions(all, tag)).await {
                Ok(text) => answer(StatusCode::OK, TEXT, text),
                Err(tags) => answer(StatusCode::NOT_FOUND, TEXT, format!("the tags here are {}\n", tags.join(", "))),
            }
        }
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// What may follow such a request is a body that nobody reads.
fn close(mut response: Response<String>) -> Response<String> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Every metric with its type, labels and meaning, as a Markdown table: made by the code that makes `/metrics`.
pub fn reference() -> String {
    exposition::reference(&families::declared())
}

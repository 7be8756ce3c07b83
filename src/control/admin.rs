#![forbid(unsafe_code)]
//! The admin listener shows whether the node is ready, its counters, and its latencies. It serves
//! HTTP/1.1 on a separate port, read only, without authentication. So it belongs on a loopback or
//! private address.
//!
//! ```text
//! GET /                      the web page                              page.rs, page/
//! GET /ready                 200 or 503, with the reasons              ready.rs
//! GET /status.json           what viewers show                         snapshot.rs, document.rs
//! GET /metrics               OpenMetrics text, or on request           families.rs, exposition.rs
//!                            the older text                            format.rs
//! GET /debug/latency.hlog    HdrHistogram's interval log               percentiles.rs
//! GET /debug/latency.hgrm    percentile distributions, or one: ?tag=   percentiles.rs
//! ```
//! Each client costs the node a task and a descriptor, and there are at most `CONNECTIONS_MAX`. If
//! all are in use, the one that was idle the longest is closed. So forgotten connections never keep
//! a scrape out.

pub(crate) mod document;
mod exposition;
mod families;
mod format;
mod node_info;
mod page;
mod percentiles;
mod process;
mod ready;
mod recent;
mod shard_cpu;
mod snapshot;
mod status;

pub(crate) use exposition::list_item;
pub(super) use node_info::KeyCounts;
pub(crate) use node_info::NodeInfo;
pub(super) use status::Status;

use format::Format;
use hyper::body::{Body, Incoming};
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
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

/// Most connections at a time. `node.rs` reserves descriptors for them.
const CONNECTIONS_MAX: usize = 32;

/// Time from accept to the end of the first request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Extra time for a connection after its deadline, in case it has sent something in time.
const LAST_LOOK: Duration = Duration::from_millis(250);

/// Time from one request to the next, with its response. It is longer than the interval of usual
/// scrapes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// Largest request head, bytes.
const HEAD_SIZE_MAX: usize = 8 << 10;
const FIELDS_MAX: usize = 64;

/// Pause after a failed accept, usually because descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const ROUTES: [&str; 6] =
    ["/", "/ready", "/status.json", "/metrics", "/debug/latency.hlog", "/debug/latency.hgrm"];

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// Why there is no admin listener.
#[derive(Debug)]
pub struct AdminError {
    address: SocketAddr,
    error: io::Error,
}

impl AdminError {
    /// An error of listening on `address`.
    pub(crate) fn new(address: SocketAddr, error: io::Error) -> AdminError {
        AdminError { address, error }
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AdminError { address, error } = self;
        match error.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "the admin address {address} is in use by another program, perhaps another node: \
                 choose another one with --admin, or --admin off"
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(
                    f,
                    "the admin address {address} is not an address of this host: choose one \
                     that is, with --admin"
                )
            }
            io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "not allowed to listen on {address}: choose a port above 1023 with --admin"
                )
            }
            _ => write!(
                f,
                "cannot listen on the admin address {address}: {error}: choose another one with \
                 --admin"
            ),
        }
    }
}

impl std::error::Error for AdminError {}

/// A bound admin address. Clients that connect wait until it is served.
#[derive(Debug)]
pub(super) struct AdminListener {
    socket: std::net::TcpListener,
    address: SocketAddr,
}

impl AdminListener {
    /// Binds the address. Port 0 takes a free port.
    pub(crate) fn bind(address: SocketAddr) -> Result<AdminListener, AdminError> {
        let bind = || {
            let socket = std::net::TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(AdminListener { address: socket.local_addr()?, socket })
        };
        bind().map_err(|error| AdminError { address, error })
    }

    /// The address with its real port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves as long as the runtime runs.
pub(super) async fn serve(listener: AdminListener, status: Rc<Status>) {
    let listener = match TcpListener::from_std(listener.socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!("the admin listener cannot be served: {error}"),
    };
    let clients = Rc::new(Clients::default());
    loop {
        match listener.accept().await {
            Ok((socket, _)) => clients.add(socket, &status),
            // The peer broke this connection. The next one may be waiting already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// The connections being served.
#[derive(Default)]
struct Clients {
    open: RefCell<Vec<Client>>,
    next_number: Cell<u64>,
}

struct Client {
    number: u64,
    task: AbortHandle,
    /// When it connected or sent its last request.
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

/// A client's place in the list. It is given back when the client's task ends, in every case.
struct Place {
    clients: Rc<Clients>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.open.borrow_mut().retain(|client| client.number != self.number);
    }
}

/// Serves one connection until it ends, or has sent no request for too long. This also limits a
/// client that does not read.
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
            // Handle received bytes before the deadline: after a standstill the deadline may have
            // passed, although they came in time.
            biased;
            // An error of the connection concerns only the client.
            _ = &mut connection => return,
            () = sleep_until(deadline.get()) => {
                if deadline.get() > Instant::now() {
                    continue;
                }
                // After a standstill the runtime may see the deadline before the bytes.
                let has_ended = tokio::time::timeout(LAST_LOOK, &mut connection).await.is_ok();
                if has_ended || deadline.get() <= Instant::now() {
                    return;
                }
            }
        }
    }
}

async fn respond(status: &Status, request: &Request<Incoming>) -> Response<String> {
    let path = request.uri().path();
    if !ROUTES.contains(&path) {
        let routes = format!("the routes here are {}\n", ROUTES.join(", "));
        return answer(StatusCode::NOT_FOUND, TEXT, routes);
    }
    // For HEAD, hyper leaves out the body and sends its length.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return close(response);
    }
    if !request.body().is_end_stream() {
        return close(answer(StatusCode::BAD_REQUEST, TEXT, "send no body\n".into()));
    }
    let failed = |error: &dyn fmt::Display| {
        answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"))
    };
    match path {
        "/" => web_page(),
        "/ready" => {
            let reasons = status.reasons();
            let code =
                if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let (info, notices) = (status.node_info(), status.notices());
            match ready::document(&info, status.calls_live(), &reasons, notices) {
                Ok(text) => answer(code, JSON, text),
                Err(error) => failed(&error),
            }
        }
        "/status.json" => match serde_json::to_string(&status.document().await) {
            Ok(text) => answer(StatusCode::OK, JSON, text + "\n"),
            Err(error) => failed(&error),
        },
        "/metrics" => {
            let format = Format::preferred(accepts(request));
            let text = exposition::text(&status.families().await, format);
            answer(StatusCode::OK, format.content_type(), text)
        }
        "/debug/latency.hlog" => {
            match status.with_latencies(|all| percentiles::log(all, status.started())).await {
                Ok(text) => answer(StatusCode::OK, TEXT, text),
                Err(error) => failed(&error),
            }
        }
        _ => {
            let query = request.uri().query().unwrap_or_default();
            let tag = query.split('&').find_map(|pair| pair.strip_prefix("tag="));
            match status.with_latencies(|all| percentiles::distributions(all, tag)).await {
                Ok(text) => answer(StatusCode::OK, TEXT, text),
                Err(tags) => answer(
                    StatusCode::NOT_FOUND,
                    TEXT,
                    format!("the tags are {}\n", tags.join(", ")),
                ),
            }
        }
    }
}

fn web_page() -> Response<String> {
    let mut response = answer(StatusCode::OK, HTML, page::PAGE.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, page::policy());
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The `Accept` fields of a request. A field that is not text is ignored.
fn accepts(request: &Request<Incoming>) -> impl Iterator<Item = &str> {
    request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok())
}

fn answer(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// Closes the connection after the response: a body may follow, and it will not be read.
fn close(mut response: Response<String>) -> Response<String> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The names of all samples, those of a histogram with their suffixes.
#[cfg(test)]
pub(crate) fn sample_names() -> std::collections::BTreeSet<String> {
    families::declared().iter().flat_map(families::Family::sample_names).collect()
}

/// Every metric with its type, labels and meaning, as a Markdown list. The code of `/metrics`
/// makes it.
pub(crate) fn reference() -> String {
    exposition::reference(&families::declared())
}

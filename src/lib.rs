//! exo-ingest takes live telephone audio over WebSocket; an ACK means that it is on disk. This page is the architecture,
//! in the order in which a frame comes through. The words in *italics* are used in this one sense
//! everywhere.
//!
//! ```text
//!  socket ──multishot recv──► buffer ring ──► Transport ──► proto::frame ──► Session::handle_data
//!                             (io, small      (plain;       (headers,           │ unmask + checksum + copy, in one pass
//!    ▲                         and hot)        TLS later)    limits)            ▼ (proto::mask, into frame_ring)
//!    │                                                                      frame ring ──write──► journal::writer ──► disk
//!    │                                                                          │ head, sealed, written, durable
//!    └──send slots◄── Session::poll_transmit ◄── Session::handle_promise ◄── ack::PromiseQueue
//! ```
//!
//! The CPU touches a frame's bytes twice: the kernel moves them from the socket into a receive buffer, and one pass of
//! ours moves them from there into the frame ring. What lies there is the journal's format already, so the disk takes it as
//! it is, by DMA where the filesystem knows O_DIRECT. Without a journal a promise holds once the frame is in the ring,
//! which is then free again.
//!
//! # Threads
//! - A *shard* ([`shard::Shard`]), one for each CPU it is given, pinned: a ring, a listener of its own on the common port
//!   (`SO_REUSEPORT`), its *connections*, their timers, a *frame ring*. A connection never changes its shard, and nothing
//!   on a frame's way is shared with another thread but counters ([`metrics`], [`tenants`]). Histograms ([`latency`]) are its
//!   own, and change hands by mail.
//! - The control thread ([`control`]), unpinned, on tokio-uring: signals, keys that change, supervisors, the
//!   [admin listener](control::admin). It reaches shards through their [mailboxes](shard::mailbox) and never touches a connection
//!   of theirs. Segments are made and retained by a thread beside it ([`control::keeper`]).
//! - [`node::Node`] starts shards together and drains them together.
//!
//! Shards talk to each other for one purpose: who has a call when two connections claim it ([`shard::claims`]).
//!
//! # The loop
//! [`Shard::turn`](shard::Shard::turn) is its body. Nothing is called back from inside a phase; what a phase wants of the
//! kernel is queued, and leaves with the one `submit` that begins the next turn.
//!
//! 1. *Wait*: submit what is queued, and gather completions for a bounded time ([`io::Wait`]), so that one wake-up serves
//!    many frames.
//! 2. *Reap and handle*: a bounded number of completions. Audio reaches the frame ring here, and its receive buffer goes
//!    back while it is in the cache.
//! 3. *Mail and time*: mailbox, timers.
//! 4. *New calls*: request heads, a budget of them a turn, behind the live calls; then what had to wait for room.
//! 5. *Seal and write*: the open batch is sealed when an ACK is due in it and pacing allows; sealed ones are written, and
//!    synced every 20 ms ([`journal::writer`]).
//! 6. *Acknowledge*: sessions whose promises hold now hear of it, and their ACKs are queued together.
//! 7. *Retry*: receives that ended are armed again, output that found no slot is sent.
//!
//! # The life of a connection
//! ```text
//!  accept ──► Head ──► Waiting ──► Open ─────────────────────────────────────────► Done ──► slot free
//!             bytes    token,      Waiting ─start─► Live ─stop─► Stopping           FIN, the peer's FIN,
//!             up to    quota       (for start)       │ Close                        nothing under way
//!             \r\n\r\n (a budget)                    └──► Leaving ─► Closing ─► Finished
//! ```
//! The upper row are stages of a slot ([`shard::connections`]), the lower ones phases of a session ([`session::ingest`]).
//! A refusal leads from anywhere to the end: before the upgrade as an HTTP answer ([`proto::handshake::Refusal`]), after
//! it as a Close ([`proto::close::Closing`]), behind the ACKs that are due. Once a `start` is valid the connection has its turn at the call, an
//! [*epoch*](call::Epoch); the greater one wins. A slot is freed only when nothing is under way on its socket, and
//! operations carry the slot's generation ([`io::UserData`]): no completion meets a stranger.
//!
//! Sessions do no IO. Something goes in by one `handle_*`, then everything is taken out by `poll_*`: bytes, a deadline, a
//! question about a promise, an action ([`session::Session`]). A [`session::Service`] decides who gets one;
//! `tests/examples/echo.rs` is a second service, on the same loop.
//!
//! # The frame ring
//! ```text
//!    released ≤ durable ≤ written ≤ sealed ≤ head          head − released ≤ size
//!    ─────┼────────┼─────────┼────────┼────────┼─────
//!    free   read by  synced    being    open      free     a batch begins on a 4,096-byte block and does not wrap;
//!           consumers          written  batch              a record begins on a 64-byte line
//! ```
//! Positions count on over the laps ([`frame_ring::RingPosition`]). A frame that comes in pieces becomes several
//! *records*, each a chunk of it; it counts once its last one is in, so no batch ever waits for a peer.
//! [`journal::format`] draws the bytes. ACKs hang on positions: a session asks "tell me once everything up to here
//! holds", the [promise queue](ack::PromiseQueue) answers by watermark. The node's level says what moves it: `head`
//! (received), `written` or `durable`.
//!
//! # The journal
//! A shard writes its batches from the registered frame ring into segments of its own, on its own ring; the control
//! side's [keeper](control::keeper) has the next segment ready before it is needed, and deletes what retention says. A
//! sync covers only writes that had completed before it was submitted. A failed write or sync fences the segment: it is
//! never synced again, and what was not durable is written anew from the ring into another. Every segment begins with the
//! records of the calls that are live (the frame ring knows them), so that each can be read alone. [`journal::scan`] reads
//! on past damage; [`journal::reader`] is for others to build on; `exo-ingest calls` is the first that does.
//!
//! # Where backpressure comes from
//! - *The frame ring is full*: received bytes wait in their receive buffers, in order; their connections are not read;
//!   the kernel runs out of buffers, and TCP pushes back. A peer's timers stand still meanwhile
//!   ([`handle_reading`](session::Session::handle_reading)).
//! - *The peer does not read*: what we owe it is two numbers, not a queue; what a socket did not take is bounded
//!   (`limits.output_size_max`), and ends the call when it makes no progress for `timeouts.ack_stalled`.
//! - *Too much at once*: a turn reaps a bounded number of completions and verifies a bounded number of tokens. Without a
//!   slot, a descriptor or a free call a connection is refused with 503 before the upgrade.
//!
//! # Two worlds
//! A shard is generic over [`io::Io`]: sockets, files, memory, clocks. [`io::uring::Uring`] is the kernel's ring;
//! [`io::scripted::Scripted`] is a world in memory that a test moves step by step. The loop, the sessions and the frame
//! ring are the same code on both. What the kernel can do is asked once, at start ([`io::probe`]); `--kernel-features
//! 6.1` takes the older paths on a newer kernel, so that tests run both.
//!
//! # Who may know whom
//! ```text
//!  cli             ─► config, control, node, journal           commands; settings
//!  control         ─► node, latency                            what goes on while it serves
//!  node            ─► shard, control::keeper                   shards made, started, told things
//!  control::keeper ─► journal                                  segments made ready, sealed, recycled
//!  shard           ─► io, transport, session, ack, proto       the only place where IO and protocol meet
//!  session         ─► proto, auth, tenants, frame_ring         plans, and never performs
//!  journal::writer ─► frame_ring, journal::format              plans, and never performs
//!  journal         ─► journal::format, io::memory              reads files: scan, recovery, reader
//!  ack             ─► frame_ring
//!  frame_ring      ─► journal::format, proto::mask, io::memory
//!  proto, auth, journal::format, io                            know nothing of each other
//!  call, clock, constants, latency, limits, metrics            the words all of them use
//! ```
//!
//! # Invariants
//! Most are absences. Each has a test that holds it.
//!
//! | it holds that | test |
//! | --- | --- |
//! | dependencies point as drawn; no IO and no thread in `proto`, `session`, `auth`, `frame_ring`, `journal::{format, writer}` | `tests/layering.rs` |
//! | no code on the data path but [`io`] reads a clock: `now` is an argument | `tests/layering.rs` |
//! | `unsafe` is in the modules that talk to the kernel and in one unmasking kernel, nowhere else | `tests/layering.rs` |
//! | no file is longer than a person wants to read | `tests/layering.rs` |
//! | the `rsa` crate makes keys in one file and never comes near a peer | `tests/layering.rs` |
//! | nothing is allocated per frame | `tests/no_allocation.rs` |
//! | no frame and no ack is measured twice, and none is lost on the way to the collector | `tests/latencies.rs` |
//! | nothing is allocated per frame, batch or segment | `tests/no_allocation.rs` |
//! | what was acked is there after a crash at any moment, whatever sectors of unsynced writes it leaves | `src/shard/tests/random/cuts.rs` |
//! | damage is named, and costs no record but those it hit | `tests/journal_flips.rs` |
//! | frames and heads mean the same however they are cut, and the same as to tungstenite | `tests/*_split_points.rs` |
//! | every unmasking kernel gives the same bytes and checksum as the plain one | `src/proto/mask/tests.rs` |
//! | what the frame ring takes is read back whole and in order, over many laps | `src/frame_ring/tests/model.rs` |
//! | no ACK is skipped, repeated or early; a call ends once, whatever comes | `src/session/ingest/tests/disorder.rs` |
//! | a freed slot does not answer to its old name | `src/shard/connections.rs` |
//! | no peer's bytes reach a panic | `tests/frame_split_points.rs`, on damaged bytes too |
//! | no token gets in that should not: 225 invalid vectors, and the known tricks | `tests/token_*.rs` |
//! | every refusal has its code, in its order | `tests/refusals_*_upgrade.rs` |
//! | frames complete before a refusal are acked before it, at every level | `tests/acks_before_refusals.rs` |
//! | a journal with a limit stays within it, and no call waits for room | `tests/journal_retention.rs` |
//! | nothing of a recycled file's former use is read | `src/control/keeper/tests/recycling.rs` |
//! | `/ready` answers while the disk does not; no client of the admin listener keeps the others out | `tests/admin_*.rs` |
//! | no call's id and no token is in a metric | `tests/admin_metrics.rs` |
//! | settings and metrics in the README are those of the code | `tests/readme_references.rs` |
//!
//! # From here
//! [`shard`], the loop, then along the data path: [`io`], [`transport`], [`proto`], [`session`], [`frame_ring`], [`ack`].
//! Limits with their reasons are in [`limits`] (an operator's) and [`constants`] (ours).

pub mod ack;
pub mod auth;
pub mod call;
pub mod cli;
pub mod clock;
pub mod config;
pub mod constants;
pub mod control;
pub mod frame_ring;
pub mod io;
pub mod journal;
pub mod latency;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod proto;
pub mod session;
pub mod shard;
pub mod tenants;
pub mod transport;

//! exo-ingest takes live telephone audio over WebSocket and acknowledges it after it is on disk.
//! This page describes the architecture, in the order in which a frame passes through it. Each word
//! in *italics* has one meaning everywhere in this crate.
//!
//! ```text
//!  socket
//!    │ multishot recv
//!    ▼
//!  buffer ring (io; small and hot)
//!    │
//!    ▼
//!  Transport (plain or TLS) ──► proto::frame (headers, limits) ──► Session::handle_data
//!                                                                    │ one pass (proto::mask):
//!                                                                    │ unmask, checksum, copy
//!                                                                    ▼
//!  disk ◄── journal::writer ◄──────────── write ─────────────── frame ring
//!                                                                    │ head, sealed,
//!                                                                    │ written, durable
//!                                                                    ▼
//!  socket ◄── send slots ◄── Session::poll_transmit ◄─────── ack::PromiseQueue
//!                                                    Session::handle_promise
//! ```
//!
//! The bytes of a frame are copied twice. The kernel moves them from the socket into a receive
//! buffer. One pass of ours moves them from there into the frame ring. The ring already has the
//! format of the journal, so the disk takes the bytes from it directly, by DMA if the filesystem
//! supports O_DIRECT. Without a journal, a promise holds when the frame is in the ring, and the
//! ring is then free again.
//!
//! # Threads
//! - A *shard* ([`shard::Shard`]) is a pinned thread, one for each CPU that the node may use. It
//!   has an `io_uring`, its own listener on the common port (`SO_REUSEPORT`), its *connections*
//!   with their timers, and a *frame ring*. A connection never changes its shard. On the way of a
//!   frame, a shard shares only counters with other threads ([`metrics`], [`tenants`]). Its
//!   histograms ([`latency`]) are its own; it sends them to the control thread.
//! - The control thread ([`control`]) is not pinned and runs on tokio-uring. It handles signals,
//!   reloads, supervisors and the [admin listener](control::admin). It sends messages to the
//!   [mailboxes](shard::mailbox) of shards and never touches their connections. Another thread
//!   ([`store`]) creates segments and deletes old ones.
//! - [`node::Node`] starts all shards together and drains them together.
//!
//! Shards send messages to each other for one purpose only: to decide which connection has a call,
//! if two connections claim it ([`shard::ownership`]).
//!
//! # The loop
//! [`Shard::turn`](shard::Shard::turn) is the body of the loop. There are no callbacks inside a
//! phase. A phase queues what it needs from the kernel, and the single `submit` at the start of the
//! next turn passes it on.
//!
//! 1. *Wait*: submit what is queued, and gather completions for a bounded time ([`io::Wait`]). So
//!    one wake-up serves many frames.
//! 2. *Reap and handle*: handle a bounded number of completions. Audio is copied into the frame
//!    ring here, and its receive buffer is returned while it is still in the cache.
//! 3. *Mail and time*: the mailbox and the timers.
//! 4. *New calls*: a limited number of request heads per turn, after the live calls. Then
//!    everything that waited for room.
//! 5. *Seal and write*: seal the open batch if an ACK in it is due and the pacing allows it. Write
//!    sealed batches, and sync them every 20 ms ([`journal::writer`]).
//! 6. *Acknowledge*: tell sessions which of their promises now hold, and queue their ACKs together.
//! 7. *Retry*: arm ended receives again, and send output that had found no slot.
//!
//! # The life of a connection
//! ```text
//!  slot     accept ──► Head ──────► Waiting ─────► Open ──────────► Done ────────► slot free
//!                      bytes up     token, quota                    FIN sent, FIN received,
//!                      to \r\n\r\n  (a budget)                      no operation in progress
//!
//!  session             Waiting ─start─► Live ─ stop ───► Stopping ─┐
//!  (in Open)           (for start)       ├─ Close ──► Leaving ──┼─► Closing ──► Finished
//!                                        └─ refusal ► Refusing ─┘
//! ```
//! The first part shows the stages of a slot ([`shard::connections`]), and the second part the
//! phases of a session ([`session::ingest`]). A refusal is possible in every stage. Before the
//! upgrade it is an HTTP answer ([`proto::handshake::Refusal`]). After the upgrade it is a Close
//! ([`proto::close::Closing`]), which follows the ACKs that are due. A valid `start` gives the
//! connection an [*epoch*](call::Epoch) of the call; the connection with the greatest epoch has the
//! call. A slot is freed only when no operation is in progress on its socket. Operations carry the
//! generation of the slot ([`io::UserData`]), so a completion never reaches a later connection.
//!
//! Sessions do no IO. One `handle_*` call takes something in. Then `poll_*` calls take everything
//! out: bytes, a deadline, a question about a promise, an action ([`session::Session`]). A
//! [`session::Service`] decides which connections get a session. `examples/echo.rs` is a second
//! service on the same loop.
//!
//! # The frame ring
//! ```text
//!    durable ≤ written ≤ sealed ≤ head          head − durable ≤ size
//!    ────┼─────────┼────────┼───────┼────
//!    free   being    being    open    free
//!           synced   written  batch
//!
//!    A batch begins on a 4,096-byte block and does not wrap. A record begins on a 64-byte line.
//! ```
//! Positions never restart: they count on through all laps ([`journal::frame_ring::RingPosition`]).
//! A frame that arrives in pieces becomes several *records*, each with a part of it. The frame
//! counts when its last record is in the ring, so a batch never waits for a peer. [`crate::format`]
//! shows the bytes. ACKs depend on positions. A session asks for a message when everything up to
//! its position is safe, and the [promise queue](ack::PromiseQueue) answers by watermark. The ACK
//! level of the node selects the watermark: `head` (received), `written` or `durable`.
//!
//! # The journal
//! A shard writes its batches from the registered frame ring into its own segments, with its own
//! `io_uring`. The [`store`] prepares the next segment before
//! it is needed, and deletes segments by the retention settings. A sync covers only writes that had
//! completed before it was submitted. A failed write or sync fences the segment: it is never synced
//! again. Data that was not durable is written again, from the ring into another segment. Every
//! segment begins with the records of the live calls, which the frame ring keeps, so each segment
//! can be read alone. [`archive::scan`] continues after damage. [`archive::reader`] is the
//! interface for other programs, and `exo-ingest calls` uses it.
//!
//! # Backpressure
//! - *The frame ring is full*: received bytes stay in their receive buffers, in order, and their
//!   connections are not read. The kernel runs out of buffers, and TCP slows the peers down. The
//!   timers of a peer stand still meanwhile ([`handle_reading`](session::Session::handle_reading)).
//! - *The peer does not read*: the ACKs that we owe it are two numbers, not a queue. Output that
//!   its socket did not accept is bounded (`limits.output_size_max`). The call ends if this output
//!   makes no progress for `timeouts.ack_stalled`.
//! - *Too much at once*: a turn handles a bounded number of completions, and verifies tokens for a
//!   bounded time. Without a free place or a free call, an upgrade gets 503. The oldest incomplete
//!   request gives way to a new one (`shard::places`), so `/health` is answered however many
//!   sockets there are. Sockets never use the descriptors that segments need.
//!
//! # Two implementations of IO
//! A shard is generic over [`io::Io`]: sockets, files, memory, clocks. [`io::uring::Uring`] is the
//! kernel's ring. `io::scripted::Scripted` is a simulation in memory, which a test moves step by
//! step. The loop, the sessions and the frame ring are the same code on both. The node asks the
//! kernel once, at start, what it supports ([`io::probe`]). `--kernel-features 6.1` selects the
//! older code paths on a newer kernel, so tests run both.
//!
//! # Which module may use which
//! A module uses modules of lower rows only, none in its own row.
//! ```text
//!  cli                               commands
//!  control, doctor, logging          signals, keys, the admin listener; host checks; the log
//!  config, node                      settings; shards, started and drained together
//!  handover, shard, store            objects for a store; the loop, where IO meets protocol; files
//!  archive                           from files to calls: scan, index, reader, recovery
//!  ack, session, transport           promises; a call from start to end; plain or TLS
//!  journal, tls                      from memory to disk: frame ring, writer; uses rustls
//!  auth, format, io, proto           tokens; bytes on disk; the kernel; bytes on the wire
//!  call, latency, limits, tenants, worst_calls    what is counted and bounded
//!  ack_level, address, clock, constants, declare, metrics    the words all of them use
//! ```
//!
//! # Invariants
//! Most of them say what the code never does. A test checks each one.
//!
//! | invariant | test |
//! | --- | --- |
//! | Modules use each other only as drawn above | `tests/project/layering.rs` |
//! | `proto`, `session`, `auth`, `format`, `journal`: no IO, no threads | `tests/project/layering.rs` |
//! | On the data path only [`io`] reads a clock: `now` is an argument | `tests/project/layering.rs` |
//! | `unsafe` is only in code for the kernel and in unmasking kernels | `tests/project/layering.rs` |
//! | No file is too long to read | `tests/project/layering.rs` |
//! | The `rsa` crate makes keys in one file, and never meets a peer | `tests/project/layering.rs` |
//! | Nothing is allocated per frame, batch or segment | `tests/no_allocation.rs` |
//! | Each frame and each ACK is measured once, and none is lost | `tests/operations/latencies.rs` |
//! | Acked audio is there after a crash at any moment | `src/shard/tests/random/cuts.rs` |
//! | Damage is reported, and costs only the records it hit | `tests/journal/flips.rs` |
//! | Cuts never change the meaning of frames and heads | `tests/protocol/*_split_points.rs` |
//! | Frames and heads mean the same as to tungstenite | `tests/protocol/*_split_points.rs` |
//! | All unmasking kernels give equal bytes and checksums | `src/proto/mask/tests.rs` |
//! | The frame ring returns all it took, in order | `src/journal/frame_ring/tests/model.rs` |
//! | No ACK is skipped, repeated or early | `src/session/ingest/tests/disorder.rs` |
//! | A call ends once | `src/session/ingest/tests/disorder.rs` |
//! | A freed slot does not accept its old identity | `src/shard/connections.rs` |
//! | Idle sockets never block a health check or a call | `tests/limits/exhaustion.rs` |
//! | Sockets never take a segment's descriptor | `tests/limits/descriptor_shares.rs` |
//! | A refusal logs at most one line, with no part of a token | `tests/operations/refusal_log.rs` |
//! | Peer bytes, even damaged ones, never cause a panic | `tests/protocol/frame_split_points.rs` |
//! | No invalid token is accepted: 225 vectors, and known attacks | `tests/tokens/` |
//! | Every refusal has its code and its place in the order | `tests/protocol/refusals_*_upgrade.rs` |
//! | Frames that precede a refusal are acked before it | `tests/protocol/acks_before_refusals.rs` |
//! | A limited journal stays in its limit; no call waits for room | `tests/journal/retention.rs` |
//! | A step of the wall clock removes no audio early | `src/store/tests/removing.rs` |
//! | A lost segment never passes for an expired one | `src/archive/marks.rs` |
//! | No shard waits for the mail of another | `src/store/tests/serving.rs` |
//! | `/ready` answers while the disk does not | `tests/operations/admin_*.rs` |
//! | The web page shows ids as text and asks this node alone | `tests/operations/admin_page.rs` |
//! | No client of the admin listener can block the others | `tests/operations/admin_*.rs` |
//! | No metric contains a token or the id of a call | `tests/operations/admin_metrics.rs` |
//! | The status document names at most 20 live calls of a shard | `tests/operations/admin_status.rs` |
//! | Documents list the code's settings, metrics and refusals | `tests/project/doc_references.rs` |
//!
//! # Where to read on
//! Begin with [`shard`], the loop. Then follow the data path: [`io`], [`transport`], [`proto`],
//! [`session`], [`journal::frame_ring`], [`ack`]. Limits and their reasons are in [`limits`] (for
//! operators) and [`constants`] (fixed).

// What is `pub` is for the tests, benches and tools of this repository, and for programs that read
// a journal or have a service of their own. The rest is for this crate alone.
#![warn(unreachable_pub)]
// This page is for readers of the code: its links lead to what is private, too.
#![allow(rustdoc::private_intra_doc_links)]

pub(crate) mod ack;
pub mod ack_level;
pub(crate) mod address;
pub mod archive;
pub mod auth;
pub mod call;
pub mod cli;
pub mod clock;
pub(crate) mod config;
pub mod constants;
pub mod control;
pub(crate) mod declare;
pub(crate) mod doctor;
pub mod format;
pub mod handover;
pub mod io;
pub mod journal;
pub mod latency;
pub mod limits;
pub(crate) mod logging;
pub mod metrics;
pub mod node;
pub mod proto;
pub mod session;
pub mod shard;
pub mod store;
pub mod tenants;
pub mod tls;
pub(crate) mod transport;
pub mod worst_calls;

//! The simulation follows the kernel's rules, as far as shards rely on them.

use super::*;
use crate::io::OpKind;

fn drain(io: &mut Scripted) -> Vec<Completion> {
    io.submit(Wait::No).unwrap();
    std::iter::from_fn(|| io.completion()).collect()
}

fn accepted(world: &World, io: &mut Scripted) -> Socket {
    let socket = world.connect("192.0.2.1:5000");
    io.accept(UserData::lone(OpKind::Accept));
    let completions = drain(io);
    assert_eq!(completions[0].result, Ok(socket.0 as u32));
    socket
}

#[test]
fn bytes_arrive_as_the_script_cuts_them_and_end_with_fin() {
    let world = World::new();
    let mut io = world.io(1, 64);
    let socket = accepted(&world, &mut io);
    assert_eq!(io.peer_address(socket), Some("192.0.2.1:5000".parse().unwrap()));
    io.receive(socket, UserData::new(OpKind::Receive, 0, 1));
    world.set_receive_size_max(2);
    world.peer_sends(socket, b"abc");
    world.peer_finishes(socket);
    let mut pieces = Vec::new();
    for completion in drain(&mut io) {
        match completion.received {
            Some(received) => {
                pieces.push(io.received(&received).to_vec());
                io.recycle(received);
            }
            None => assert!(completion.result == Ok(0) && !completion.more),
        }
    }
    assert_eq!(pieces, [b"ab".to_vec(), b"c".to_vec()]);
    assert_eq!(io.outstanding(), 0);
}

#[test]
fn a_closed_window_blocks_and_an_open_one_lets_the_rest_go() {
    let world = World::new();
    let mut io = world.io(1, 64);
    let socket = accepted(&world, &mut io);
    world.set_window(socket, Some(3));
    let slot = io.acquire_slot().unwrap();
    assert!(io.acquire_slot().is_none());
    io.slot(&slot)[..5].copy_from_slice(b"hello");
    io.send(socket, &slot, 5, UserData::new(OpKind::Send, 0, 1));
    assert_eq!(drain(&mut io)[0].result, Ok(3));
    io.send(socket, &slot, 5, UserData::new(OpKind::Send, 0, 1));
    assert_eq!(drain(&mut io)[0].result, Err(Errno::AGAIN));
    let rest = UserData::new(OpKind::SendRest, 0, 1);
    io.send_rest(socket, BytesMut::from(&b"lo"[..]), rest);
    assert!(drain(&mut io).is_empty());
    world.set_window(socket, None);
    assert_eq!(drain(&mut io)[0].result, Ok(2));
    assert_eq!(io.take_rest(rest).len(), 2);
    assert_eq!(world.peer_reads(socket), b"hello");
}

#[test]
fn without_receive_buffers_a_receive_ends() {
    let world = World::new();
    let mut io = world.io(1, 64);
    let socket = accepted(&world, &mut io);
    world.set_receive_buffers_free(Some(0));
    world.peer_sends(socket, b"x");
    io.receive(socket, UserData::new(OpKind::Receive, 0, 1));
    let completions = drain(&mut io);
    assert_eq!(completions[0].result, Err(Errno::NOBUFS));
    assert!(!completions[0].more && !world.is_reading(socket));
}

#[test]
fn the_clocks_move_only_with_the_script() {
    let world = World::new();
    let mut io = world.io(1, 64);
    let start = io.now();
    world.advance(Duration::from_millis(5));
    assert_eq!(io.now().moment.since(start.moment), Duration::from_millis(5));
    world.step_wall_clock(-3600);
    assert_eq!(io.now().moment.since(start.moment), Duration::from_millis(5));
    assert_eq!(io.now().unix.0, start.unix.0 + 5_000 - 3_600_000_000);
}

#[test]
fn only_a_successful_sync_makes_writes_durable_and_a_failed_one_loses_them_for_good() {
    let world = World::new();
    let mut io = world.io(1, 64);
    io.use_frame_ring(|start, size| vec![start as u8; size]);
    let file = world.create_file(4);
    let write = FileWrite { file, source: WriteSource::FrameRing, start: 1, size: 2, offset: 0 };
    io.write(write, UserData::lone(OpKind::Write));
    drain(&mut io);
    assert_eq!(world.live_image(file), [1, 1, 0, 0]);
    assert_eq!(world.durable_image(file), [0; 4]);
    world.fail_sync(file, Errno::IO);
    io.sync(file, UserData::lone(OpKind::Sync));
    assert_eq!(drain(&mut io)[0].result, Err(Errno::IO));
    io.sync(file, UserData::lone(OpKind::Sync));
    assert_eq!(drain(&mut io)[0].result, Ok(0));
    assert_eq!(world.durable_image(file), [0; 4], "the second sync lies");
    world.fail_write(file, Errno::NOSPC);
    io.write(write, UserData::lone(OpKind::Write));
    assert_eq!(drain(&mut io)[0].result, Err(Errno::NOSPC));
}

#[test]
fn a_sync_covers_what_had_completed_when_it_was_submitted() {
    let world = World::new();
    let mut io = world.io(1, 64);
    let file = world.create_file(4096);
    let source = WriteSource::Scratch;
    let write_at = |offset| FileWrite { file, source, start: 0, size: 512, offset };
    world.hold_file_operations(true);
    for (place, fill) in [(0, 1), (512, 2), (1024, 3)] {
        io.scratch()[..512].fill(fill);
        io.write(write_at(place), UserData::lone(OpKind::Write));
    }
    assert!(drain(&mut io).is_empty() && world.file_operation_count() == 3);
    assert!(world.finish_file_operation(2));
    io.sync(file, UserData::lone(OpKind::Sync));
    drain(&mut io);
    assert!(world.finish_file_operation(0));
    assert!(world.finish_file_operation(1), "the sync, before the write that is older");
    let durable = world.durable_image(file);
    assert_eq!([durable[0], durable[512], durable[1024]], [0, 0, 3]);
    assert_eq!([world.live_image(file)[0], world.live_image(file)[512]], [1, 0]);
    assert!(world.crash_image(file, || false) == durable);
    let torn = world.crash_image(file, || true);
    assert_eq!(
        [torn[0], torn[512], torn[1024]],
        [1, 2, 3],
        "a power loss may keep writes in progress"
    );
    assert!(world.finish_file_operation(0) && !world.finish_file_operation(0));
    assert_eq!(world.sync_count(file), 1);
    world.hold_file_operations(false);
    world.shorten_write(file, 100);
    io.write(write_at(0), UserData::lone(OpKind::Write));
    assert_eq!(drain(&mut io).last().unwrap().result, Ok(100));
}

//! A good call's bytes with some of them damaged, from the request to `stop`, in random cuts:
//! whatever it makes of them, the shard goes on, and in the end nothing is left. A panic would end
//! a node and all of its calls.

#![forbid(unsafe_code)]

use super::random::{Dice, SeedNote};
use super::*;

const RUNS: u64 = 400;

fn script(dice: &mut Dice) -> Vec<u8> {
    let mut script = [head("a"), start("a")].concat();
    for _ in 0..dice.within(1..30) {
        match dice.within(0..8) {
            0 => script.extend(masked(0x9, &vec![b'p'; dice.within(0..126)])),
            1 => script.extend(text(r#"{"event":"märk","of":[1,{"a":null}]}"#)),
            2 => script.extend([&masked(0x2, &[1; 9])[..], &masked(0x0, &[2; 8])].concat()),
            _ => script.extend(audio(dice.within(0..1025))),
        }
    }
    script.extend(if dice.once_in(2) { text(STOP) } else { close(1000) });
    script
}

fn damage(dice: &mut Dice, script: &mut Vec<u8>) {
    // Most of it after the request: what happens to that is told by `tests/protocol/head_*.rs`.
    let from = if dice.once_in(4) { 0 } else { head("a").len() };
    for _ in 0..dice.within(1..6) {
        let at = dice.within(from..script.len());
        match dice.within(0..5) {
            0 => script[at] = dice.roll() as u8,
            1 => drop(script.drain(at..(at + dice.within(1..20)).min(script.len()))),
            2 => script.extend_from_within(at..),
            3 => script.splice(at..at, [0xff; 9]).for_each(drop),
            _ => script[at] ^= 1 << dice.within(0..8),
        }
        if script.len() <= from {
            return;
        }
    }
}

#[test]
fn a_shard_survives_whatever_comes() {
    let mut endings = std::collections::BTreeSet::new();
    for seed in 1..=RUNS {
        let _note = SeedNote(seed);
        let mut dice = Dice(seed);
        let mut rig = Rig::with(|limits| limits.strict_pcm = seed % 2 == 0);
        let (mut script, socket) = (script(&mut dice), rig.connect());
        damage(&mut dice, &mut script);
        let mut rest = &script[..];
        while !rest.is_empty() && !rig.world.is_closed(socket) {
            let (piece, after) = rest.split_at(dice.within(1..rest.len().min(900) + 1));
            rig.send(socket, piece);
            rig.turn();
            rest = after;
        }
        rig.quiet();
        if dice.once_in(2) && !rig.world.is_closed(socket) {
            rig.world.peer_finishes(socket);
            rig.quiet();
        }
        let heard = rig.said(socket);
        endings.extend(
            heard.last().filter(|word| word.starts_with("close") || word.len() == 3).cloned(),
        );
        assert_eq!(rig.ingest.counters.ends_unrecorded.read(), 0);
        // Others are served as ever.
        let other = rig.call("b");
        assert_eq!(rig.ask(other, &frames(10, 10)), ["ack 10"]);
        rig.end();
    }
    println!("{endings:?}");
    for ending in ["400", "close 1000", "close 1002", "close 1007", "close 4400"] {
        assert!(endings.contains(ending), "{ending} did not come up: {endings:?}");
    }
}

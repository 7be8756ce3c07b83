//! The same call on two connections: the newer stays, whichever shards they are on and in whatever
//! order the news comes.

#![forbid(unsafe_code)]

use super::*;

const SUPERSEDED: [&str; 2] = ["error superseded", "close 4409"];

fn shards(count: usize) -> Vec<Rig> {
    rigs(count, settings(Limits::tiny()))
}

fn claims(rigs: &[Rig]) -> usize {
    rigs.iter().map(|rig| rig.shard.mail.owned_count()).sum()
}

fn home(interaction: &str, count: usize) -> usize {
    CallIdentity { tenant: TENANT.into(), interaction: interaction.into() }.key().home_shard(count)
}

/// Interactions whose home is each of `count` shards.
fn interactions(count: usize) -> Vec<String> {
    let at = |index| {
        (0..).map(|number| format!("call-{number}")).find(|name| home(name, count) == index)
    };
    (0..count).map(|index| at(index).expect("there is one")).collect()
}

fn end_all(mut rigs: Vec<Rig>) {
    rigs.iter_mut().for_each(Rig::abandon);
    quiet_all(&mut rigs);
    rigs.iter_mut().for_each(Rig::assert_nothing_left);
}

#[test]
fn the_newer_connection_wins_on_any_shards_and_any_home() {
    for interaction in interactions(3) {
        for (old_shard, new_shard) in [(0, 0), (0, 1), (1, 0), (1, 2), (2, 2)] {
            let mut rigs = shards(3);
            let old = rigs[old_shard].call(&interaction);
            quiet_all(&mut rigs);
            rigs.iter().for_each(|rig| rig.world.advance(millis(1)));
            let new = rigs[new_shard].call(&interaction);
            quiet_all(&mut rigs);
            assert_eq!(
                rigs[old_shard].said(old),
                SUPERSEDED,
                "{interaction}: {old_shard} then {new_shard}"
            );
            assert_eq!(rigs[new_shard].ask(new, &frames(10, 10)), ["ack 10"]);
            assert_eq!(claims(&rigs), 1);
            assert_eq!(rigs[old_shard].counters.calls_superseded.read(), 1);
            end_all(rigs);
        }
    }
}

#[test]
fn the_newer_connection_wins_even_if_its_claim_comes_first() {
    let interaction = &interactions(3)[0];
    let mut rigs = shards(3);
    let old = rigs[1].upgraded(interaction);
    let new = rigs[2].upgraded(interaction);
    rigs[1].send(old, &start(interaction));
    // Shard 1 takes the older `start`, and its claim lies in the mailbox of a shard that does not
    // turn; the newer one's is put before it.
    rigs[1].quiet();
    let older = rigs[0].shard.mail.poll().expect("a claim");
    rigs.iter().for_each(|rig| rig.world.advance(millis(1)));
    rigs[2].send(new, &start(interaction));
    rigs[2].quiet();
    rigs[0].quiet();
    rigs[0].shard.mail.sender(0).try_send(older).unwrap();
    quiet_all(&mut rigs);
    assert_eq!(rigs[1].said(old), ["started", SUPERSEDED[0], SUPERSEDED[1]]);
    assert_eq!(rigs[2].said(new), ["started"]);
    assert_eq!(claims(&rigs), 1);
    end_all(rigs);
}

#[test]
fn a_call_that_has_ended_is_forgotten_and_the_next_epoch_has_no_rival() {
    let mut rigs = shards(2);
    for round in 0..4 {
        let socket = rigs[round % 2].call("a");
        quiet_all(&mut rigs);
        assert_eq!(claims(&rigs), 1);
        assert_eq!(rigs[round % 2].ask(socket, &text(STOP)), ["stopped 0", "close 1000"]);
        quiet_all(&mut rigs);
        assert_eq!(claims(&rigs), 0);
    }
    assert_eq!(rigs.iter().map(|rig| rig.counters.calls_superseded.read()).sum::<u64>(), 0);
    end_all(rigs);
}

/// Fills a mailbox to its last place with news of calls that no connection has.
fn fill_mailbox(rig: &Rig) {
    let nothing =
        || Message::Release { call: crate::call::CallKey(0), epoch: CallEpoch::default() };
    while rig.shard.mail.sender(rig.shard.index).try_send(nothing()).is_ok() {}
}

#[test]
fn a_full_mailbox_delays_a_claim_and_loses_nothing() {
    let interaction = &interactions(2)[0];
    let mut rigs = shards(2);
    let old = rigs[0].call(interaction);
    quiet_all(&mut rigs);
    rigs.iter().for_each(|rig| rig.world.advance(millis(1)));
    fill_mailbox(&rigs[0]);
    let new = rigs[1].upgraded(interaction);
    rigs[1].send(new, &start(interaction));
    (0..5).for_each(|_| rigs[1].turn());
    assert_eq!(rigs[1].said(new), ["started"], "it waits for no other shard");
    assert_eq!(rigs[1].shard.next_wait(), Wait::No, "it tries again");
    assert_eq!(rigs[1].counters.outbox_waiting.read(), 1);
    rigs[0].turn();
    assert!(
        rigs[0].counters.mailbox_found.read() >= 4096,
        "{}",
        rigs[0].counters.mailbox_found.read()
    );
    rigs[0].turn();
    assert_eq!(rigs[0].counters.mailbox_found.read(), 0);
    assert_eq!(rigs[0].said(old), Vec::<String>::new());
    quiet_all(&mut rigs);
    assert_eq!(rigs[0].said(old), SUPERSEDED);
    end_all(rigs);
}

#[test]
fn a_release_does_not_overtake_its_claim_when_the_mailbox_was_full() {
    let interaction = &interactions(2)[0];
    let mut rigs = shards(2);
    let socket = rigs[1].upgraded(interaction);
    fill_mailbox(&rigs[0]);
    rigs[1].send(socket, &start(interaction));
    rigs[1].turn();
    // There is room again by the time of the release, which comes in the same turn in which the
    // claim is tried again.
    rigs[0].shard.mail.poll().expect("it is full");
    rigs[0].shard.mail.poll().expect("it is full");
    rigs[1].send(socket, &text(STOP));
    rigs[1].quiet();
    assert_eq!(rigs[1].said(socket), ["started", "stopped 0", "close 1000"]);
    quiet_all(&mut rigs);
    assert_eq!(claims(&rigs), 0, "a claim without a release stays for ever");
    end_all(rigs);
}

#[test]
fn news_of_a_connection_that_is_gone_does_not_reach_the_next_in_its_slot() {
    let mut rigs = shards(1);
    let rig = &mut rigs[0];
    let old = rig.call("a");
    let id = rig.shard.connections.ids().next().unwrap();
    rig.world.peer_resets(old);
    rig.quiet();
    let other = rig.call("b");
    assert_eq!(rig.shard.connections.ids().next().unwrap().index, id.index);
    rig.shard.mail.sender(0).try_send(Message::Superseded { connection: id }).unwrap();
    assert_eq!(rig.ask(other, &frames(10, 10)), ["ack 10"]);
    end_all(rigs);
}

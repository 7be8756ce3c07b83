use super::*;
use crate::doctor::testing::{assert_fails, assert_passes, assert_skips, find};

fn judge(facts: &NicFacts, plan: &Plan) -> Vec<Check> {
    checks(facts, plan, &Demand::of(plan))
}

/// A card of 10 Gbit/s with two queues, for shards on CPUs 1 and 2.
fn good() -> NicFacts {
    NicFacts {
        name: Some("eth0".into()),
        missing: String::new(),
        speed: Some(10_000_000_000),
        receive_queues: 2,
        rps: Vec::new(),
        xps: vec![1, 2],
        interrupts: vec![(24, vec![1]), (25, vec![2])],
        numa_node: Some(0),
        numa_cpus: vec![0, 1, 2, 3],
        ethtool: Ethtool {
            error: None,
            receive_ring: Some((1_024, 4_096)),
            queues: Some((2, 4)),
            gather_micros: Some(50),
            is_adaptive: Some(false),
            offloads: Some(vec!["rx-checksum".into(), "rx-gro".into()]),
        },
    }
}

#[test]
fn each_check_passes_and_fails() {
    let plan = Plan::of_calls(8_000);
    let bad = NicFacts {
        speed: Some(1_000_000_000),
        receive_queues: 1,
        rps: Vec::new(),
        interrupts: vec![(24, vec![0]), (25, vec![0])],
        numa_cpus: vec![8, 9],
        ethtool: Ethtool {
            receive_ring: Some((256, 4_096)),
            gather_micros: Some(0),
            offloads: Some(vec!["rx-checksum".into()]),
            ..good().ethtool
        },
        ..good()
    };
    for topic in TOPICS {
        assert_passes(judge(&good(), &plan), topic.id);
        if topic.id != "nic.steering" {
            assert_fails(judge(&bad, &plan), topic.id);
        }
        let none = NicFacts { missing: "no route".into(), ..NicFacts::default() };
        assert_skips(judge(&none, &plan), topic.id);
    }
    let steered = NicFacts { rps: vec![0, 1], ..good() };
    assert_fails(judge(&steered, &plan), "nic.steering");
    let check = find(judge(&bad, &plan), "nic.interrupts");
    assert_eq!(check.commands[1], "echo 2 > /proc/irq/25/smp_affinity_list");
    let check = find(judge(&bad, &plan), "nic.queues");
    assert_eq!(check.commands, ["ethtool -L eth0 combined 2"]);
}

#[test]
fn a_card_that_says_little_is_skipped_with_the_reason() {
    let silent = NicFacts {
        speed: None,
        receive_queues: 0,
        interrupts: Vec::new(),
        numa_node: None,
        ethtool: Ethtool { error: Some("refused".into()), ..Ethtool::default() },
        ..good()
    };
    let plan = Plan::of_calls(1);
    for topic in TOPICS.into_iter().filter(|topic| topic.id != "nic.steering") {
        assert_skips(judge(&silent, &plan), topic.id);
    }
    let unpinned = Plan { shards: vec![None; 2], ..plan };
    for id in ["nic.interrupts", "nic.steering", "nic.numa"] {
        assert_skips(judge(&good(), &unpinned), id);
    }
    let check = find(judge(&silent, &unpinned), "nic.rings");
    assert!(check.reason.is_some_and(|reason| reason.contains("refused")));
}

#[test]
fn rps_stands_in_for_missing_queues() {
    let facts = NicFacts { receive_queues: 1, rps: vec![1, 2], ..good() };
    assert_passes(judge(&facts, &Plan::of_calls(8_000)), "nic.queues");
}

#[test]
fn masks_have_the_highest_cpus_first() {
    assert_eq!(cpus_of_mask("3"), [0, 1]);
    assert_eq!(cpus_of_mask("00000001,80000000"), [31, 32]);
    assert_eq!(cpus_of_mask("00000000"), [0_usize; 0]);
}

/// A tree with the files of a card.
fn tree() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let files = [
        (
            "proc/net/route",
            "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
             ens5 0000000A 00000000 0001 0 0 0 000000FF 0 0 0\n\
             ens8 0003020A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
             ens6 00000000 0101000A 0003 0 0 0 00000000 0 0 0\n",
        ),
        ("proc/net/if_inet6", "20010db8000000000000000000000001 02 40 00 80 ens7\n"),
        ("sys/class/net/ens6/speed", "25000\n"),
        ("sys/class/net/ens6/queues/rx-0/rps_cpus", "0\n"),
        ("sys/class/net/ens6/queues/rx-1/rps_cpus", "c\n"),
        ("sys/class/net/ens6/queues/tx-0/xps_cpus", "f\n"),
        ("sys/class/net/ens6/device/numa_node", "1\n"),
        ("sys/class/net/ens6/device/msi_irqs/30", "msix\n"),
        ("sys/class/net/ens6/device/msi_irqs/4", "msix\n"),
        ("proc/irq/30/smp_affinity_list", "2-3\n"),
        ("proc/irq/4/smp_affinity_list", "1\n"),
        ("sys/devices/system/node/node1/cpulist", "4-7\n"),
    ];
    for (name, text) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    directory
}

#[test]
fn the_card_of_the_address_or_of_the_default_route_is_read() {
    let tree = tree();
    let root = Root::copy(tree.path());
    let of = |address: &str| interface(&root, address.parse().unwrap());
    assert_eq!(of("0.0.0.0").unwrap(), "ens6");
    assert_eq!(of("10.1.2.3").unwrap(), "ens5", "10.0.0.0/8");
    assert_eq!(of("10.2.3.4").unwrap(), "ens8", "10.2.3.0/24");
    assert_eq!(of("2001:db8::1").unwrap(), "ens7");
    assert!(of("127.0.0.1").unwrap_err().contains("loopback"));
    assert!(of("192.0.2.1").is_err());

    let facts = NicFacts::read(&root, &Plan::of_calls(1), true);
    assert_eq!(facts.name.as_deref(), Some("ens6"));
    assert_eq!(facts.speed, Some(25_000_000_000));
    assert_eq!((facts.receive_queues, facts.rps.clone()), (2, vec![2, 3]));
    assert_eq!(facts.xps, [0, 1, 2, 3]);
    assert_eq!(facts.interrupts, [(4, vec![1]), (30, vec![2, 3])]);
    assert_eq!((facts.numa_node, facts.numa_cpus), (Some(1), vec![4, 5, 6, 7]));
}

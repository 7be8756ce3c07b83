//! What a box has: from flags, and from the report of `exo-ingest doctor --json`.

use serde_json::Value;

/// What a box has; none where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Machine {
    /// Cores that carry calls.
    pub cores: Option<u64>,
    /// What its disk writes for hours, bytes a second.
    pub disk: Option<f64>,
    /// What its network receives, bits a second.
    pub network: Option<f64>,
    /// Memory, bytes.
    pub memory: Option<f64>,
}

impl Machine {
    /// Reads a doctor's report: its object `facts`. A fact that is null or missing is not known.
    pub fn of_report(report: &Value) -> Result<Self, String> {
        let facts = report.get("facts").filter(|facts| facts.is_object());
        let facts = facts.ok_or(
            "--host-report: no object 'facts'; give the output of exo-ingest doctor --json",
        )?;
        let number =
            |name: &str| facts[name].as_f64().filter(|number| *number > 0.0 && number.is_finite());
        Ok(Self {
            cores: number("cpus").map(|cpus| shards(cpus as u64)),
            disk: number("disk_write_bytes_per_second"),
            network: number("network_bits_per_second"),
            memory: number("memory_bytes"),
        })
    }

    /// These facts, and those of `other` where one is missing.
    pub fn or(self, other: Self) -> Self {
        Self {
            cores: self.cores.or(other.cores),
            disk: self.disk.or(other.disk),
            network: self.network.or(other.network),
            memory: self.memory.or(other.memory),
        }
    }
}

/// Shards of a node by default: all CPUs but one, where there are more than two.
fn shards(cpus: u64) -> u64 {
    if cpus > 2 { cpus - 1 } else { cpus }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_come_before_the_report_and_what_is_null_is_not_known() {
        let report = json!({"facts": {
            "cpus": 8, "memory_bytes": 68_719_476_736u64, "disk_write_bytes_per_second": 1.4e9,
            "network_bits_per_second": null,
        }});
        let machine = Machine::of_report(&report).unwrap();
        assert_eq!(
            machine,
            Machine {
                cores: Some(7),
                disk: Some(1.4e9),
                network: None,
                memory: Some(68_719_476_736.0)
            }
        );
        let flags = Machine { disk: Some(1.0), ..Machine::default() };
        assert_eq!(flags.or(machine), Machine { disk: Some(1.0), ..machine });
        assert_eq!([1, 2, 3, 64].map(shards), [1, 2, 2, 63]);
        assert!(Machine::of_report(&json!({})).unwrap_err().contains("doctor --json"));
    }
}

//! The plan as text, and its warnings.

use std::fmt::Write as _;

use super::{Question, Resource, Sizing, TRUSTED};
use crate::plural::{counted, grouped};

/// More use of a disk than this leaves it no room to catch up after a stall.
const DISK_PERCENT: f64 = 50.0;

impl Resource {
    fn words(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Disk => "the disk",
            Self::Network => "the network",
            Self::Memory => "the memory",
            Self::MaxCalls => "the node's --max-calls",
        }
    }
}

impl Sizing {
    /// What to know before the answer is used.
    pub(super) fn warnings(&self, question: Question) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.is_extrapolated {
            warnings.push(format!(
                "EXTRAPOLATED: {} a box is {:.1} times the largest load measured ({}); play a run \
                 of at least {} to know",
                counted(self.calls_per_box, "call"),
                self.extrapolation_factor,
                counted(self.calls_measured_max, "call"),
                counted((self.calls_per_box as f64 / TRUSTED).ceil() as u64, "call"),
            ));
        }
        if self.calls_per_box_range.is_none() {
            warnings.push(
                "no range: a single run has no spread; give two or more, with different --calls"
                    .to_owned(),
            );
        }
        let disk = self.bounds.iter().find(|bound| bound.resource == Resource::Disk);
        if let Some(disk) = disk.filter(|disk| disk.used_percent > DISK_PERCENT) {
            warnings.push(format!(
                "the disk is {:.0} % used at {}: above {DISK_PERCENT} % it catches up slowly after \
                 a stall",
                disk.used_percent,
                counted(self.calls_per_box, "call"),
            ));
        }
        warnings.extend(self.unknown(question));
        if self.calls_per_box == 0 {
            warnings.push(format!(
                "a box carries no call: {} is not enough for one",
                self.limited_by.words()
            ));
        }
        warnings
    }

    /// The limits that are not known.
    fn unknown(&self, question: Question) -> Option<String> {
        let machine = question.machine;
        let unknown: Vec<&str> = [
            (self.max_calls.is_none(), "--max-calls (or play the runs with --admin)"),
            (machine.disk.is_none(), "--disk"),
            (machine.network.is_none(), "--network"),
            (machine.memory.is_none(), "--memory"),
            (machine.cores.is_none(), "--cores (counted as one)"),
        ]
        .into_iter()
        .filter_map(|(is_unknown, flag)| is_unknown.then_some(flag))
        .collect();
        let unknown = (!unknown.is_empty()).then(|| unknown.join(", "))?;
        Some(format!("not taken into account, because not given: {unknown}"))
    }

    /// As text.
    pub fn table(&self, question: Question) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write_runs(&mut out);
        let _ = self.write_box(&mut out, question.cpu_max);
        let _ = self.write_boxes(&mut out);
        let _ = self.write_notes(&mut out);
        out
    }

    fn write_runs(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{:>10}{:>12}{:>12}", "calls", "node CPU", "by the line")?;
        let line = |calls: u64| self.idle_percent + self.percent_per_call * calls as f64;
        for (calls, cpu) in &self.points {
            writeln!(out, "{:>10}{cpu:>10.1} %{:>10.1} %", grouped(*calls), line(*calls))?;
        }
        writeln!(out)
    }

    fn write_box(&self, out: &mut String, cpu_max: f64) -> std::fmt::Result {
        let is_far = self.calls_per_core as f64 > TRUSTED * self.calls_measured_max as f64;
        let far = if is_far { "  EXTRAPOLATED" } else { "" };
        let core = format!("a core at {cpu_max} %");
        writeln!(out, "{core:<32}{}{far}", counted(self.calls_per_core, "call"))?;
        for bound in &self.bounds {
            let binds = if bound.resource == self.limited_by {
                "  <- the limit".to_owned()
            } else {
                let room = counted(bound.room_calls, "call");
                format!("  {:.0} % used, room for {room} more", bound.used_percent)
            };
            let left = format!("{} carries", bound.resource.words());
            writeln!(out, "{left:<32}{}{binds}", counted(bound.calls, "call"))?;
        }
        let rate = self.bytes_per_second_per_box as f64 / 1e6;
        let left = format!("a box of {}", counted(self.cores, "core"));
        writeln!(
            out,
            "{left:<32}{}, {rate:.0} MB a second, limited by {}{}",
            counted(self.calls_per_box, "call"),
            self.limited_by.words(),
            self.extrapolated()
        )?;
        if let Some([low, high]) = self.calls_per_box_range {
            let left = "by the spread of the runs";
            writeln!(out, "{left:<32}{} to {}", grouped(low), counted(high, "call"))?;
        }
        Ok(())
    }

    fn write_boxes(&self, out: &mut String) -> std::fmt::Result {
        if let Some(traffic) = self.traffic {
            let left = format!("{} attempts an hour", grouped(traffic.busy_hour_attempts as u64));
            writeln!(
                out,
                "{left:<32}{} at once: {:.1} Erlang of {} s, {} % blocked (Erlang B)",
                counted(traffic.calls, "call"),
                traffic.erlangs,
                traffic.hold_s,
                traffic.blocking * 100.0
            )?;
        }
        let (Some(calls), Some(boxes)) = (self.calls, self.boxes) else { return Ok(()) };
        let far = self.extrapolated();
        let left = counted(calls, "call");
        let range = self.boxes_range.filter(|[fewest, most]| fewest != most);
        let range = range.map_or_else(String::new, |[fewest, most]| {
            format!(", {} to {} by the spread", grouped(fewest), grouped(most))
        });
        writeln!(out, "{left:<32}{}{far}{range}", counted(boxes, "box"))?;
        if let Some(boxes) = self.boxes_with_spare {
            writeln!(out, "{:<32}{}{far}", "the same with one box down", counted(boxes, "box"))?;
        }
        Ok(())
    }

    fn extrapolated(&self) -> &'static str {
        if self.is_extrapolated { "  EXTRAPOLATED" } else { "" }
    }

    fn write_notes(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out)?;
        for warning in &self.warnings {
            writeln!(out, "{warning}")?;
        }
        writeln!(out, "\nThis assumes that")?;
        self.assumptions.iter().try_for_each(|assumption| writeln!(out, "- {assumption}"))
    }
}

//! `capacity.md`: the answer as a page for a repository. Its lines are short, but for tables and
//! words that cannot be broken.

use std::fmt::Write as _;

use super::page::heading;
use super::table::{missed, percent, time, why};
use super::{Answer, Capacity};
use crate::plural::{counted, grouped};

/// Longest line, columns.
const WIDTH: usize = 100;

/// Shown where nothing was measured.
const NOTHING: &str = "–";

impl Answer {
    /// As a page in Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write_markdown(&mut out);
        out
    }

    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        let answers: Vec<String> = self.searches.iter().map(heading).collect();
        writeln!(out, "# Capacity: {}\n", answers.join(", "))?;
        write_lines(out, "", &self.setting.words())?;
        writeln!(out, "\n```sh\n{}\n```", self.setting.shell(WIDTH))?;
        for (index, search) in self.searches.iter().enumerate() {
            let heading = match search.cores {
                Some(cores) => counted(cores, "shard"),
                None if self.searches.len() == 1 => "The answer".to_owned(),
                None => format!("Search {}", index + 1),
            };
            writeln!(out, "\n## {heading}\n")?;
            search.write_markdown(out)?;
        }
        Ok(())
    }
}

impl Capacity {
    fn write_markdown(&self, out: &mut String) -> std::fmt::Result {
        write_lines(out, "", &format!("{}.", self.summary))?;
        writeln!(out, "\n| goal | passes | fails | runs at both |\n| --- | --- | --- | --- |")?;
        for goal in &self.goals {
            let [passed, failed] = goal.runs;
            let (name, passes, fails) = (&goal.goal, goal.passes(), goal.fails());
            writeln!(out, "| `{name}` | {passes} | {fails} | {passed} + {failed} |")?;
        }
        out.push('\n');
        for goal in &self.goals {
            write_lines(out, "- ", &format!("`{}`: {}.", goal.goal, goal.text))?;
        }
        writeln!(
            out,
            "\n| calls | run | length | ACK p50 | p99 | p99.9 | node | exo-load |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- |"
        )?;
        for step in &self.steps {
            writeln!(
                out,
                "| {} | {} | {:.0} s | {} | {} | {} | {} | {} |",
                grouped(step.calls),
                why(step.why),
                step.duration_s,
                time(step.ack_p50_ns, NOTHING),
                time(step.ack_p99_ns, NOTHING),
                time(step.ack_p999_ns, NOTHING),
                percent(step.server_cpu_percent, NOTHING),
                percent(step.generator_cpu_percent, NOTHING),
            )?;
        }
        let mut is_first = true;
        for step in &self.steps {
            let words = missed(&step.goals, &self.goals);
            if words.is_empty() {
                continue;
            }
            if std::mem::take(&mut is_first) {
                writeln!(out, "\nWhat runs missed:\n")?;
            }
            let calls = counted(step.calls, "call");
            write_lines(out, "- ", &format!("{calls}, {}: {words}.", why(step.why)))?;
        }
        Ok(())
    }
}

/// A paragraph, broken at spaces. Its first line begins with `mark`, and the others below its text.
fn write_lines(out: &mut String, mark: &str, text: &str) -> std::fmt::Result {
    let mut column = mark.chars().count();
    let indent = " ".repeat(column);
    out.push_str(mark);
    let mut is_start = true;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if !std::mem::take(&mut is_start) {
            if column + 1 + width > WIDTH {
                write!(out, "\n{indent}")?;
                column = indent.len();
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += width;
    }
    writeln!(out)
}

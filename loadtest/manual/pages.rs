//! Manual pages, one for each command, made from its help.
//!
//! The page's parts come from clap_mangen, but for what follows the flags in the help: that crate
//! would join the lines of its examples to one paragraph.

use clap::{Args, Command};
use clap_mangen::Man;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

/// Write manual pages, one for each command
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory for the pages; created if missing
    #[arg(short, long, value_name = "DIR")]
    out: PathBuf,
}

impl ManArgs {
    /// Writes the pages of `command` and of all commands below it. An error is a sentence that
    /// names the directory.
    pub fn write(&self, mut command: Command) -> Result<(), String> {
        let failed = |error| {
            format!(
                "cannot write manual pages to {}: {error}: give a directory that can be written \
                 with --out",
                self.out.display()
            )
        };
        // `help` has no page. What it says is in the others.
        command = command.disable_help_subcommand(true);
        command.build();
        let program = Program {
            name: command.get_name().to_owned(),
            version: command.get_version().unwrap_or_default().to_owned(),
        };
        fs::create_dir_all(&self.out).map_err(failed)?;
        let mut pages = Vec::new();
        add_pages(&command, &program, &mut pages).map_err(failed)?;
        for (name, text) in pages {
            exo_output::write(&self.out.join(name), &text, exo_output::PUBLIC).map_err(failed)?;
        }
        Ok(())
    }
}

/// What the foot of each page names.
struct Program {
    name: String,
    version: String,
}

/// Adds the name and the text of the page of `command`, and those below it.
fn add_pages(
    command: &Command,
    program: &Program,
    pages: &mut Vec<(String, Vec<u8>)>,
) -> io::Result<()> {
    let man = Man::new(command.clone());
    let name = man.get_filename();
    let title = name.trim_end_matches(".1").to_uppercase();
    let mut text = Vec::new();
    // Without a date, so that the same source gives the same page. The crate would leave its place
    // out, and the version would be read as the date.
    let Program { name: program_name, version } = program;
    writeln!(text, ".TH {title} 1 \"\" \"{program_name} {version}\" \"{program_name}\"")?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(after) = command.get_after_help() {
        after_flags(&after.to_string(), &mut text)?;
    }
    pages.push((name, text));
    command.get_subcommands().try_for_each(|below| add_pages(below, program, pages))
}

/// What follows the flags in the help: examples, whose lines are indented, and paragraphs.
fn after_flags(help: &str, out: &mut impl Write) -> io::Result<()> {
    let mut is_example = false;
    let mut has_notes = false;
    for line in help.lines().filter(|line| !line.trim().is_empty()) {
        if is_example && !line.starts_with("  ") {
            writeln!(out, ".fi\n.RE")?;
            is_example = false;
        }
        if line.starts_with("Example") {
            writeln!(out, ".SH EXAMPLES")?;
        } else if line.starts_with("  ") {
            if !is_example {
                writeln!(out, ".RS 2\n.nf")?;
            }
            is_example = true;
            writeln!(out, "{}", escaped(line.strip_prefix("  ").unwrap_or(line)))?;
        } else {
            writeln!(out, "{}\n{}", if has_notes { ".PP" } else { ".SH NOTES" }, escaped(line))?;
            has_notes = true;
        }
    }
    if is_example {
        writeln!(out, ".fi\n.RE")?;
    }
    Ok(())
}

/// A line as text: no part of it is a request or an escape of roff.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\(rs").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_keep_their_lines_and_notes_are_paragraphs() {
        let mut page = Vec::new();
        after_flags("Example:\n  a --b \\\n    c\n\n.d\ne", &mut page).expect("memory");
        let expected = ".SH EXAMPLES\n.RS 2\n.nf\na \\-\\-b \\(rs\n  c\n.fi\n.RE\n\
                        .SH NOTES\n\\&.d\n.PP\ne\n";
        assert_eq!(String::from_utf8_lossy(&page), expected);
    }
}

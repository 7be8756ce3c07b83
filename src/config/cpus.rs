#![forbid(unsafe_code)]
//! The CPU of each reactor: the `--cpus` list, or a choice if there is none. This module does no
//! IO: the caller asks the kernel which CPUs there are.

/// Highest CPU number in a list: the most that the kernel's fixed-size CPU set holds.
const CPU_MAX: usize = 1023;

/// Most reactors of a node. They number epochs and journal directories, and no known machine has
/// more CPUs.
pub(crate) const SHARD_COUNT_MAX: usize = CPU_MAX + 1;

/// Returns one entry per reactor: the CPU it is pinned to, or `None` if it is not pinned. `allowed`
/// are the CPUs that this process may use.
///
/// With `--cpus`, these CPUs. With `--shards N`, the N highest allowed CPUs; if there are fewer, N
/// unpinned reactors. Otherwise all allowed CPUs but the lowest, or all if there are only one or
/// two. The lowest is left to the control plane, and to the kernel, whose housekeeping runs there.
///
/// The error is a sentence that names the setting to change.
pub(crate) fn place(
    cpus: Option<&[usize]>,
    shards: Option<usize>,
    allowed: &[usize],
) -> Result<Vec<Option<usize>>, String> {
    let highest =
        |count: usize| allowed[allowed.len() - count..].iter().copied().map(Some).collect();
    match (cpus, shards) {
        (Some(cpus), _) => match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
            Some(cpu) => Err(format!(
                "this process may not use CPU {cpu}, which cpus names: choose from {}, or widen \
                 its affinity (taskset)",
                show(allowed)
            )),
            None => Ok(cpus.iter().copied().map(Some).collect()),
        },
        (None, Some(count)) if count <= allowed.len() => Ok(highest(count)),
        (None, Some(count)) => Ok(vec![None; count]),
        (None, None) if allowed.is_empty() => Ok(vec![None]),
        (None, None) if allowed.len() <= 2 => Ok(highest(allowed.len())),
        (None, None) => Ok(highest(allowed.len() - 1)),
    }
}

/// Reads `2-9,12`: numbers and ranges separated by commas, each CPU once.
pub(crate) fn parse(text: &str) -> Result<Vec<usize>, String> {
    let mistake = || format!("write CPU numbers up to {CPU_MAX}, each once, such as 2-9,12");
    let number = |text: &str| {
        text.trim().parse::<usize>().ok().filter(|cpu| *cpu <= CPU_MAX).ok_or_else(mistake)
    };
    let mut cpus = Vec::new();
    for item in text.split(',') {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || (first..=last).any(|cpu| cpus.contains(&cpu)) {
            return Err(mistake());
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// Prints CPUs as `--cpus` reads them, with ranges.
pub(crate) fn show(cpus: &[usize]) -> String {
    let mut text = String::new();
    for run in cpus.chunk_by(|before, after| before + 1 == *after) {
        let separator = if text.is_empty() { "" } else { "," };
        text += &match run {
            [first, .., last] => format!("{separator}{first}-{last}"),
            run => format!("{separator}{}", run[0]),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(
        cpus: Option<&str>,
        shards: Option<usize>,
        allowed: &[usize],
    ) -> Result<Vec<Option<usize>>, String> {
        let cpus = cpus.map(|text| parse(text).unwrap());
        place(cpus.as_deref(), shards, allowed)
    }

    #[test]
    fn lists_read_back_as_printed() {
        for text in ["0", "2-9,12", "3,1", "0-1023"] {
            assert_eq!(show(&parse(text).unwrap()), text);
        }
        assert_eq!(show(&[]), "");
        for text in
            ["", "a", "1-", "-1", "3-2", "1,1", "1-4,3", "1024", "0-18446744073709551615", "1,,2"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_lowest_cpu_is_left_free_if_there_are_more_than_two() {
        assert_eq!(placed(None, None, &[5]), Ok(vec![Some(5)]));
        assert_eq!(placed(None, None, &[0, 1]), Ok(vec![Some(0), Some(1)]));
        assert_eq!(placed(None, None, &[0, 1, 4]), Ok(vec![Some(1), Some(4)]));
        assert_eq!(placed(None, None, &[]), Ok(vec![None]));
    }

    #[test]
    fn shards_are_pinned_while_there_are_cpus_for_them() {
        assert_eq!(placed(None, Some(2), &[0, 1, 2]), Ok(vec![Some(1), Some(2)]));
        assert_eq!(placed(None, Some(3), &[0, 1]), Ok(vec![None; 3]));
    }

    #[test]
    fn an_error_names_a_cpu_that_is_not_allowed() {
        assert_eq!(placed(Some("1,0"), None, &[0, 1]), Ok(vec![Some(1), Some(0)]));
        let error = placed(Some("0-3"), None, &[0, 1, 2]).unwrap_err();
        assert!(error.contains("CPU 3") && error.contains("0-2"), "{error}");
    }
}

//! The text formats of `/metrics`, and which one a scraper gets.

/// A text format of metrics. Both say the same samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// What Prometheus had before, version 0.0.4. It is for scrapers that ask for `text/plain`, and
    /// for `promtool check metrics`. The `HELP` and `TYPE` of a counter end in `_total` like its
    /// samples. It has no infos, which become gauges of 1. It has no units and no end mark either.
    Classic,
}

impl Format {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// The format that a request prefers: OpenMetrics, if it has no preference.
    pub(super) fn preferred<'a>(accepts: impl Iterator<Item = &'a str>) -> Format {
        // The most specific range counts (RFC 9110 §12.5.1). A pair holds its weight and how
        // specific it is.
        let (mut classic, mut open) = ((0.0, 0), (0.0, 0));
        let mut is_asked = false;
        for range in accepts.flat_map(|accept| accept.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            if media.is_empty() {
                continue;
            }
            is_asked = true;
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let weight = weight.map_or(1.0, |text| text.parse::<f64>().unwrap_or(0.0));
            for (best, all, kind) in [
                (&mut classic, "text/*", "text/plain"),
                (&mut open, "application/*", "application/openmetrics-text"),
            ] {
                let specific = [(kind, 3), (all, 2), ("*/*", 1)]
                    .into_iter()
                    .find(|(range, _)| *range == media);
                if let Some((_, specific)) = specific
                    && (specific > best.1 || specific == best.1 && weight > best.0)
                {
                    *best = (weight, specific);
                }
            }
        }
        if is_asked && classic.0 > open.0 { Format::Classic } else { Format::OpenMetrics }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preferred(accepts: &[&'static str]) -> Format {
        Format::preferred(accepts.iter().copied())
    }

    #[test]
    fn a_request_that_prefers_plain_text_gets_it() {
        // The `Accept` fields of Prometheus 2.42 and 3.0.
        let scraper = "application/openmetrics-text;version=1.0.0,\
            application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let newer = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.6,\
            application/openmetrics-text;version=1.0.0;q=0.5,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [
            "",
            "*/*",
            scraper,
            newer,
            "text/html,*/*;q=0.8",
            "text/plain,application/openmetrics-text",
        ] {
            assert_eq!(preferred(&[accept]), Format::OpenMetrics, "{accept}");
        }
        assert_eq!(preferred(&[]), Format::OpenMetrics);
        for accept in [
            "text/plain",
            "Text/Plain; version=0.0.4",
            "text/*",
            "text/plain, */*;q=0.1",
            "text/plain;q=0.5,application/openmetrics-text;q=0.4",
            "*/*, application/openmetrics-text;q=0",
        ] {
            assert_eq!(preferred(&[accept]), Format::Classic, "{accept}");
        }
        assert_eq!(preferred(&["text/plain", "image/png"]), Format::Classic);
    }
}

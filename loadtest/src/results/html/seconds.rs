//! `intervals.csv`, as far as the page draws it.

/// A line of the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Second {
    /// Its start, seconds since the start of the run.
    pub at: f64,
    /// Frames sent.
    pub frames_per_second: f64,
    /// CPU of the node, percent of one core, if the run measured it.
    pub server_cpu_percent: Option<f64>,
    /// CPU of exo-load, percent of one core.
    pub generator_cpu_percent: Option<f64>,
}

/// Reads the file. Columns are found by name: older files have fewer.
pub fn read(csv: &str) -> Vec<Second> {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let place = |name: &str| names.iter().position(|it| *it == name);
    let columns = ["seconds", "frames", "server_cpu_percent", "generator_cpu_percent"].map(place);
    let mut begin = 0.0;
    let mut seconds = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        let [end, frames, server, generator] =
            columns.map(|place| fields.get(place?)?.parse::<f64>().ok());
        let (Some(end), Some(frames)) = (end, frames) else { continue };
        // The last line may be of a moment only: a rate would be noise.
        if end - begin >= 0.1 {
            seconds.push(Second {
                at: begin,
                frames_per_second: frames / (end - begin),
                server_cpu_percent: server,
                generator_cpu_percent: generator,
            });
        }
        begin = end;
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_name() {
        let csv = "seconds,calls_up,frames,server_cpu_percent,generator_cpu_percent\n\
                   0.500,1,10,12.5,3.0\n1.500,1,40,,4.0\n1.501,1,9,,4.0\nx\n";
        let second = |at, frames_per_second, server, generator| Second {
            at,
            frames_per_second,
            server_cpu_percent: server,
            generator_cpu_percent: Some(generator),
        };
        assert_eq!(read(csv), [second(0.0, 20.0, Some(12.5), 3.0), second(0.5, 40.0, None, 4.0)]);
        assert_eq!(read(""), []);
        let old = read("seconds,frames\n1.0,5\n");
        assert_eq!((old[0].server_cpu_percent, old[0].generator_cpu_percent), (None, None));
    }
}

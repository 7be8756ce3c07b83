#![forbid(unsafe_code)]
//! The table of panels as a dashboard that Grafana imports.

use super::panels::{Drawing, Panel, Query, ROWS, Row};
use serde_json::{Value, json};

/// Version of the dashboard's format. Grafana 10.3 writes it; later ones migrate it on import.
const SCHEMA_VERSION: u32 = 39;

/// Columns of Grafana's grid.
const GRID_WIDTH: u32 = 24;

/// The labels that choose the nodes.
const NODE: &str = "job=~\"$job\",instance=~\"$instance\"";

/// The dashboard. Its `uid` is fixed, so that another import replaces it.
pub(super) fn json(title: &str) -> Value {
    let mut layout = Layout::default();
    let panels: Vec<Value> = ROWS.iter().flat_map(|row| layout.row(row)).collect();
    json!({
        "uid": "exo-ingest",
        "title": title,
        "description": "Nodes of exo-ingest. Made by `exo-ingest grafana`.",
        "tags": ["exo-ingest"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": variables()},
        "panels": panels,
    })
}

fn variables() -> Value {
    let labels = |name: &str, label: &str, query: &str| {
        json!({
            "name": name,
            "label": label,
            "type": "query",
            "datasource": data_source(),
            "query": {"query": query, "refId": name},
            // Whenever the time range changes: nodes come and go.
            "refresh": 2,
            "sort": 1,
            "multi": true,
            "includeAll": true,
            "allValue": ".+",
            "current": {"selected": true, "text": ["All"], "value": ["$__all"]},
            "options": [],
            "hide": 0,
        })
    };
    json!([
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "multi": false,
            "includeAll": false,
            "options": [],
            "hide": 0,
        },
        labels("job", "Job", "label_values(exo_ingest_build_info, job)"),
        labels("instance", "Node", "label_values(exo_ingest_build_info{job=~\"$job\"}, instance)"),
    ])
}

fn data_source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// The place of the next panel.
#[derive(Default)]
struct Layout {
    x: u32,
    y: u32,
    /// Height of the current line of panels.
    height: u32,
    /// Ids of panels are unique in a dashboard.
    id: u32,
}

impl Layout {
    /// The heading of a row, and its panels.
    fn row(&mut self, row: &Row) -> Vec<Value> {
        let heading = json!({
            "type": "row",
            "title": row.title,
            "collapsed": false,
            "panels": [],
            "gridPos": self.place(GRID_WIDTH, 1),
            "id": self.id,
        });
        let panels = row.panels.iter().map(|panel| self.panel(panel));
        [heading].into_iter().chain(panels).collect()
    }

    fn panel(&mut self, panel: &Panel) -> Value {
        let (width, height) = match panel.drawing {
            Drawing::Number | Drawing::YesOrNo => (4, 4),
            _ => (8, 8),
        };
        let place = self.place(width, height);
        let targets: Vec<Value> = panel
            .queries
            .iter()
            .enumerate()
            .map(|(index, query)| target(index, query, panel.drawing))
            .collect();
        let mut value = json!({
            "id": self.id,
            "title": panel.title,
            "description": description(panel),
            "datasource": data_source(),
            "gridPos": place,
            "targets": targets,
        });
        if let (Value::Object(value), Value::Object(drawn)) = (&mut value, drawn(panel)) {
            value.extend(drawn);
        }
        value
    }

    fn place(&mut self, width: u32, height: u32) -> Value {
        if self.x + width > GRID_WIDTH || height != self.height {
            self.y += self.height;
            (self.x, self.height) = (0, height);
        }
        let place = json!({"x": self.x, "y": self.y, "w": width, "h": height});
        self.x += width;
        self.id += 1;
        place
    }
}

/// What a panel shows, and when its queries are empty.
fn description(panel: &Panel) -> String {
    let mut text = panel.help.to_owned();
    for (index, query) in panel.queries.iter().enumerate() {
        if let Some(when) = query.when {
            text += &format!(" Query {} is empty unless {when}.", ref_id(index));
        }
    }
    text
}

fn target(index: usize, query: &Query, drawing: Drawing) -> Value {
    let is_heat_map = drawing == Drawing::HeatMap;
    json!({
        "refId": ref_id(index),
        "datasource": data_source(),
        "expr": query.expr.replace("$node", NODE).replace("$rate", "$__rate_interval"),
        "legendFormat": query.legend,
        "format": if is_heat_map { "heatmap" } else { "time_series" },
        "range": true,
        "instant": false,
        "editorMode": "code",
    })
}

/// A, B, …
fn ref_id(index: usize) -> String {
    char::from(b'A' + index as u8).to_string()
}

/// The members that depend on how a panel draws.
fn drawn(panel: &Panel) -> Value {
    match panel.drawing {
        Drawing::Number => json!({
            "type": "stat",
            "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
            "options": stat_options(),
        }),
        Drawing::YesOrNo => json!({
            "type": "stat",
            "fieldConfig": {
                "defaults": {
                    "mappings": [{
                        "type": "value",
                        "options": {
                            "0": {"text": "no", "color": "red", "index": 0},
                            "1": {"text": "yes", "color": "green", "index": 1},
                        },
                    }],
                },
                "overrides": [],
            },
            "options": stat_options(),
        }),
        Drawing::Lines | Drawing::LogLines | Drawing::Stack => json!({
            "type": "timeseries",
            "fieldConfig": {
                "defaults": {"unit": panel.unit, "custom": lines(panel.drawing)},
                "overrides": [{
                    "matcher": {"id": "byRegexp", "options": "/^(limit|reserve)/"},
                    "properties": [{
                        "id": "custom.lineStyle",
                        "value": {"fill": "dash", "dash": [8, 8]},
                    }],
                }],
            },
            "options": {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
        }),
        Drawing::HeatMap => heat_map(panel),
    }
}

fn stat_options() -> Value {
    json!({
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": false},
    })
}

fn lines(drawing: Drawing) -> Value {
    let is_stack = drawing == Drawing::Stack;
    let mut lines = json!({
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": if is_stack { 30 } else { 5 },
        "showPoints": "never",
        "spanNulls": false,
        "stacking": {"mode": if is_stack { "normal" } else { "none" }, "group": "A"},
    });
    match drawing {
        Drawing::LogLines => lines["scaleDistribution"] = json!({"type": "log", "log": 10}),
        // Without this, small changes of a large number look large.
        _ => lines["axisSoftMin"] = json!(0),
    }
    lines
}

fn heat_map(panel: &Panel) -> Value {
    json!({
        "type": "heatmap",
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {
            "calculate": false,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Oranges",
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
                "fill": "dark-orange",
                "reverse": false,
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": true},
            "rowsFrame": {"layout": "auto"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": false, "showColorScale": true},
            "yAxis": {"axisPlacement": "left", "reverse": false, "unit": panel.unit},
        },
    })
}

//! `result.schema.json` and `capacity.schema.json`, and as much of JSON Schema as they use.

use serde_json::Value;

/// Panics where `result` is not what the schema says.
#[track_caller]
pub fn check(result: &Value) {
    let schema: Value =
        serde_json::from_str(include_str!("../../result.schema.json")).expect("JSON");
    if let Err(fault) = check_value(&schema, &schema, result, "result") {
        panic!("{fault}\n{result:#}");
    }
}

/// Panics where the answer of a search is not what its schema says.
#[track_caller]
pub fn check_capacity(answer: &Value) {
    let schema: Value =
        serde_json::from_str(include_str!("../../capacity.schema.json")).expect("JSON");
    if let Err(fault) = check_value(&schema, &schema, answer, "capacity") {
        panic!("{fault}\n{answer:#}");
    }
}

fn check_value(root: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    if let Some(name) = schema["$ref"].as_str() {
        let definition =
            root.pointer(name.trim_start_matches('#')).ok_or(format!("no {name} in the schema"))?;
        return check_value(root, definition, value, path);
    }
    if schema.get("const").is_some_and(|constant| constant != value) {
        return Err(format!("{path} is {value}"));
    }
    if schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
        return Err(format!("{path} is {value}"));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_a(name, value)) {
        return Err(format!("{path} is {value}, and no {types:?}"));
    }
    if let Some(members) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            members.get(name).ok_or(format!("{path} has no {name}"))?;
        }
        for (name, member) in members {
            let path = format!("{path}.{name}");
            match (schema["properties"].get(name), &schema["additionalProperties"]) {
                (Some(schema), _) => check_value(root, schema, member, &path)?,
                (None, Value::Bool(false)) => return Err(format!("{path} is not in the schema")),
                (None, schema) => check_value(root, schema, member, &path)?,
            }
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check_value(root, &schema["items"], item, &format!("{path}[{index}]"))?;
    }
    Ok(())
}

fn is_a(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other} is no type of the schema"),
    }
}

#[test]
fn what_does_not_fit_is_found() {
    let result = serde_json::json!({"schema": {"name": "exo-load/result", "version": 3}});
    let schema: Value = serde_json::from_str(include_str!("../../result.schema.json")).unwrap();
    assert!(check_value(&schema, &schema, &result, "r").unwrap_err().contains("r has no verdict"));
    for (name, value, fault) in [
        ("schema", &result["schema"], "version is 3"),
        ("counts", &serde_json::json!({"frames": "many"}), "frames is \"many\""),
        ("latency_ns", &serde_json::json!({"ack": {}}), "has no setup"),
        ("run", &serde_json::json!([]), "and no"),
    ] {
        let found = check_value(&schema, &schema["properties"][name], value, name).unwrap_err();
        assert!(found.contains(fault), "{found}");
    }
}

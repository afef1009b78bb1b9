//! `aiquota reference`: docs/reference.md on standard output, made of the CustomResourceDefinitions: every field with its
//! type, default, bounds and text, what the API server checks besides, and the columns of `kubectl get`.

use std::fmt::Write as _;
use std::io::Write as _;

use anyhow::{Context, Result};
use serde_json::Value;

const HEAD: &str = "<!-- Made by `cargo xtask generate` of the definitions in crds/: edit the comments of crates/api instead. -->
# Reference

Every field of the kinds of `quota.higress.io/v1alpha1`. `kubectl explain <plural>.spec.<field>` shows the same texts.
A default is what an absent field means: the controller applies it, and nothing is written into your objects. The API server
refuses unknown fields where it is told to (`kubectl apply` tells it), values outside of the bounds, and what is not as it stands
behind *checked*. What only the controller can see is told by conditions: [conditions.md](conditions.md).
";

pub(crate) fn print() -> Result<()> {
    Ok(std::io::stdout().lock().write_all(reference(&api::crds()?)?.as_bytes())?)
}

fn reference(crds: &[Value]) -> Result<String> {
    let mut page = HEAD.to_owned();
    for crd in crds {
        let version = crd.pointer("/spec/versions/0").context("a definition without a version")?;
        let schema = &version["schema"]["openAPIV3Schema"];
        let names = &crd["spec"]["names"];
        let short: Vec<&str> = strings(&names["shortNames"]).collect();
        write!(page, "\n## {}\n\n{}\n\n", text(&names["kind"]), text(&schema["description"]))?;
        writeln!(page, "`kubectl get {}`, short `{}`; namespaced.\n", text(&names["plural"]), short.join("`, `"))?;

        let (spec, status) = (&schema["properties"]["spec"], &schema["properties"]["status"]);
        page.push_str("| field of `spec` | type | default | bounds | description |\n|---|---|---|---|---|\n");
        for field in fields(spec) {
            let Field { path, node, required } = field;
            let (default, description) = described(node, required);
            let cells = [format!("`{path}`"), kind(node), default, bounds(node), description + &checked(node)];
            writeln!(page, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))?;
        }
        let together: Vec<String> = checks(spec).collect();
        if !together.is_empty() {
            writeln!(page, "\n*Checked* of all together: {}.", together.join("; "))?;
        }

        page.push_str("\n| field of `status` | type | description |\n|---|---|---|\n");
        for Field { path, node, .. } in fields(status) {
            // As every Kubernetes condition.
            if !path.starts_with("conditions[].") {
                let cells = [format!("`{path}`"), kind(node), text(&node["description"]).to_owned()];
                writeln!(page, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "))?;
            }
        }

        page.push_str("\n| column of `kubectl get` | from | shown |\n|---|---|---|\n");
        for column in version["additionalPrinterColumns"].as_array().into_iter().flatten() {
            let shown = if column["priority"].as_i64().unwrap_or(0) == 0 { "always" } else { "with `-o wide`" };
            writeln!(page, "| {} | `{}` | {shown} |", text(&column["name"]), text(&column["jsonPath"]))?;
        }
    }
    Ok(page)
}

struct Field<'a> {
    /// Below the spec or status; `[]` stands for each entry of a list.
    path: String,
    node: &'a Value,
    required: bool,
}

/// All fields of a schema, each before those in it.
fn fields(schema: &Value) -> Vec<Field<'_>> {
    let mut all = Vec::new();
    collect(schema, "", &mut all);
    all
}

fn collect<'a>(schema: &'a Value, prefix: &str, into: &mut Vec<Field<'a>>) {
    let required: Vec<&str> = strings(&schema["required"]).collect();
    for (name, node) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        into.push(Field { path: path.clone(), node, required: required.contains(&name.as_str()) });
        if let Some(entry) = node.get("items") {
            collect(entry, &format!("{path}[]."), into);
        }
        collect(node, &format!("{path}."), into);
    }
}

fn kind(node: &Value) -> String {
    match text(&node["type"]) {
        "array" => format!("list of {}s", text(&node["items"]["type"])),
        other => other.to_owned(),
    }
}

/// What absence means, and the description without it. Texts say it in a sentence that begins with `Absent: `.
fn described(node: &Value, required: bool) -> (String, String) {
    let whole = text(&node["description"]);
    if required {
        return ("required".to_owned(), whole.to_owned());
    }
    if let Some((before, rest)) = whole.split_once("Absent: ") {
        let (default, after) = rest.split_once(". ").unwrap_or((rest.trim_end_matches('.'), ""));
        return (default.to_owned(), format!("{before}{after}").trim_end().to_owned());
    }
    let default = if whole.contains("Absent or false: ") { "false" } else { "-" };
    (default.to_owned(), whole.to_owned())
}

fn bounds(node: &Value) -> String {
    let mut said = Vec::new();
    let values: Vec<&str> = strings(&node["enum"]).collect();
    if !values.is_empty() {
        said.push(format!("`{}`", values.join("`, `")));
    }
    for (least, most, unit) in
        [("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " entries")]
    {
        match (node[least].as_i64(), node[most].as_i64()) {
            (Some(least), Some(most)) => said.push(format!("{least} to {most}{unit}")),
            (None, Some(most)) => said.push(format!("at most {most}{unit}")),
            (Some(least), None) => said.push(format!("at least {least}{unit}")),
            (None, None) => {}
        }
    }
    if let Some(pattern) = node["pattern"].as_str() {
        said.push(format!("`{pattern}`"));
    }
    match node["x-kubernetes-list-type"].as_str() {
        Some("map") => said.push(format!(
            "each `{}` once",
            strings(&node["x-kubernetes-list-map-keys"]).collect::<Vec<_>>().join("`, `")
        )),
        Some("set") => said.push("each once".to_owned()),
        _ => {}
    }
    if let Some(each) = node.get("items").map(bounds).filter(|each| !each.is_empty()) {
        said.push(format!("each {each}"));
    }
    said.join(", ")
}

/// What the API server checks of a field, or of each entry of a list, that no bound can say.
fn checked(node: &Value) -> String {
    let said: Vec<String> = checks(node).chain(checks(&node["items"])).collect();
    if said.is_empty() { String::new() } else { format!(" *Checked*: {}.", said.join("; ")) }
}

/// Messages, each with the field that it is about where that is another one.
fn checks(node: &Value) -> impl Iterator<Item = String> {
    node["x-kubernetes-validations"].as_array().into_iter().flatten().map(|rule| {
        let message = text(&rule["message"]);
        match rule["fieldPath"].as_str() {
            Some(field) => format!("`{}`: {message}", field.trim_start_matches('.')),
            None => message.to_owned(),
        }
    })
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_has_one_row_with_what_its_definition_says_of_it() {
        let crds = api::crds().unwrap();
        let page = reference(&crds).unwrap();
        for row in [
            "| `admission` | string | `Check` | `Check`, `Reserve` |",
            "| `admin.path` | string | `/quota` | at most 128 characters, `^/",
            "| `targetRefs` | list of objects | required | 1 to 16 entries |",
            "| `consumers[].quota` | integer | - | 0 to 9007199254740991 |",
            "| `allowNarrower` | boolean | false |",
            "| `rules[].limits[].window` | string | required |",
            "; `reservation`: is required with admission Reserve and allowed with no other",
            "| Message | `.status.conditions[?(@.type==\"Ready\")].message` | with `-o wide` |",
        ] {
            assert!(page.contains(row), "{row}");
        }
        for crd in &crds {
            let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
            for Field { path, .. } in fields(spec) {
                let row = page.lines().find(|line| line.starts_with(&format!("| `{path}` |")));
                assert!(!row.expect(&path).contains("Absent: "), "{row:?}");
            }
        }
    }

    #[test]
    fn a_default_ends_with_its_sentence_and_bars_do_not_end_a_cell() {
        let node =
            json!({"description": "A port. Absent: 80 for `.static`, else 6379. Of the service.", "pattern": "^a|b$"});
        let (default, description) = described(&node, false);
        assert_eq!(default, "80 for `.static`, else 6379");
        assert_eq!(description, "A port. Of the service.");
        assert_eq!(described(&node, true).0, "required");
        assert_eq!(
            bounds(&json!({"items": {"maxLength": 3}, "maxItems": 2})),
            "at most 2 entries, each at most 3 characters"
        );
    }

    #[test]
    fn what_may_be_left_out_says_what_its_absence_means() {
        for crd in api::crds().unwrap() {
            let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
            for Field { path, node, required } in fields(spec) {
                let said = described(node, required).0;
                // Of several one is given, or an empty list is the same.
                let one_of = ["by.", "match.", "consumers[].", "targetRefs[]."].iter().any(|part| path.contains(part));
                let explained = ["bsent", "equired with"].iter().any(|word| text(&node["description"]).contains(word));
                assert!(said != "-" || one_of || node["type"] == "array" || explained, "{path}");
            }
        }
    }
}

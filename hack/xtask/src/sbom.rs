//! The software bill of materials of the `pullpiri` binary: CycloneDX 1.6, from what cargo resolved. The same lock file gives the same bytes.
//!
//! A component is a crate that the binary may contain: reached from `pullpiri` over normal dependencies, with the features and the platform of the
//! build. Crates that only run while building (build scripts, procedural macros) are listed with scope `excluded`. Hashes are those of Cargo.lock.
//! Specification: <https://cyclonedx.org/docs/1.6/json/>.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

const BINARY: &str = "pullpiri";

#[derive(Debug, thiserror::Error)]
pub(crate) enum SbomError {
    #[error("running cargo metadata: {0}")]
    Cargo(#[source] std::io::Error),
    #[error("cargo metadata failed: {0}")]
    Metadata(String),
    #[error("reading what cargo metadata says: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cargo metadata says nothing of {0}")]
    Missing(&'static str),
    #[error("reading Cargo.lock: {0}")]
    Lock(#[source] std::io::Error),
}

/// The document as pretty JSON with a newline at its end.
pub(crate) fn render(root: &Path, platform: &str) -> Result<String, SbomError> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", platform])
        .current_dir(root)
        .output()
        .map_err(SbomError::Cargo)?;
    if !output.status.success() {
        return Err(SbomError::Metadata(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).map_err(SbomError::Lock)?;
    let document = document(&serde_json::from_slice(&output.stdout)?, &checksums(&lock), platform)?;
    Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
}

/// SHA-256 by name and version, of crates that come from a registry.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""))?;
            line.strip_suffix('"').map(str::to_owned)
        };
        if let (Some(name), Some(version), Some(sum)) = (field("name"), field("version"), field("checksum")) {
            found.insert((name, version), sum);
        }
    }
    found
}

fn document(
    metadata: &Value,
    checksums: &BTreeMap<(String, String), String>,
    platform: &str,
) -> Result<Value, SbomError> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        list(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes: BTreeMap<String, Value> =
        list(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    let (start, binary) =
        packages.iter().find(|(_, package)| package["name"] == BINARY).ok_or(SbomError::Missing(BINARY))?;

    let is_macro = |id: &str| {
        let kinds = |target: &Value| list(&target["kind"]).iter().any(|kind| kind == "proc-macro");
        packages.get(id).is_some_and(|package| list(&package["targets"]).iter().any(kinds))
    };
    // Twice: first what the binary contains, then also what only builds it.
    let reach = |with_tools: bool| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(id) = next.pop() {
            if !reached.insert(id.clone()) {
                continue;
            }
            for dependency in nodes.get(&id).map(|node| list(&node["deps"])).unwrap_or_default() {
                let kinds = list(&dependency["dep_kinds"]);
                let to = text(&dependency["pkg"]);
                let is_normal = kinds.iter().any(|kind| kind["kind"].is_null()) && !is_macro(&to);
                let is_tool = kinds.iter().any(|kind| kind["kind"].is_null() || kind["kind"] == "build");
                if is_normal || (with_tools && is_tool) {
                    next.push(to);
                }
            }
        }
        reached
    };
    let (contained, all) = (reach(false), reach(true));

    let reference = |id: &str| packages.get(id).map(purl).unwrap_or_default();
    let mut components: Vec<Value> = Vec::new();
    let mut dependencies: Vec<Value> = Vec::new();
    for (id, package) in packages.iter().filter(|(id, _)| all.contains(*id)) {
        if id != start {
            components.push(component(package, checksums, contained.contains(id)));
        }
        let deps = nodes.get(id).map(|node| list(&node["deps"])).unwrap_or_default();
        let to: BTreeSet<String> =
            deps.iter().map(|d| text(&d["pkg"])).filter(|to| all.contains(to)).map(|to| reference(&to)).collect();
        dependencies.push(json!({ "ref": purl(package), "dependsOn": to }));
    }
    components.sort_by_key(|component| component["bom-ref"].to_string());
    dependencies.sort_by_key(|dependency| dependency["ref"].to_string());
    let mut main = component(binary, checksums, true);
    main["type"] = json!("application");
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": main,
            "properties": [{ "name": "cargo:platform", "value": platform }],
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

/// The package URL, by which the document refers to a crate.
fn purl(package: &Value) -> String {
    let field = |name: &str| package[name].as_str().unwrap_or_default();
    // Ours aren't in a registry.
    let kind = if package["source"].is_null() { "pkg:generic/pullpiri" } else { "pkg:cargo" };
    format!("{kind}/{}@{}", field("name"), field("version"))
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>, is_contained: bool) -> Value {
    let field = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
    let purl = purl(package);
    let mut component = json!({
        "type": "library",
        "bom-ref": purl,
        "name": field("name"),
        "version": field("version"),
        "scope": if is_contained { "required" } else { "excluded" },
        "purl": purl,
    });
    if let Some(license) = package["license"].as_str() {
        // Old manifests separate alternatives by a slash.
        let expression = license.split('/').map(str::trim).collect::<Vec<_>>().join(" OR ");
        component["licenses"] = json!([{ "expression": expression }]);
    }
    if let Some(sum) = checksums.get(&(field("name"), field("version"))) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    if let Some(url) = package["repository"].as_str().filter(|url| url.starts_with("http")) {
        component["externalReferences"] = json!([{ "type": "vcs", "url": url }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_builds_is_told_apart_and_tests_are_left_out() {
        let package = |name: &str, kind: &str| {
            json!({
                "id": name, "name": name, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": "registry",
                "targets": [{ "kind": [kind] }],
            })
        };
        let to = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package(BINARY, "bin"), package("lib", "lib"), package("derive", "proc-macro"), package("syn", "lib"),
                package("cc", "lib"), package("proptest", "lib"),
            ],
            "resolve": { "nodes": [
                { "id": BINARY, "deps": [
                    to("lib", Value::Null), to("derive", Value::Null), to("cc", json!("build")), to("proptest", json!("dev")),
                ] },
                { "id": "derive", "deps": [to("syn", Value::Null)] },
            ] },
        });
        let lock = "[[package]]\nname = \"lib\"\nversion = \"1.0.0\"\nchecksum = \"abc\"\n";
        let document = document(&metadata, &checksums(lock), "x86_64-unknown-linux-gnu").unwrap();
        let scopes: Vec<(&str, &str)> = document["components"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| (c["name"].as_str().unwrap(), c["scope"].as_str().unwrap()))
            .collect();
        assert_eq!(scopes, [("cc", "excluded"), ("derive", "excluded"), ("lib", "required"), ("syn", "excluded")]);
        assert_eq!(document["components"][2]["hashes"][0]["content"], "abc");
        assert_eq!(document["components"][2]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(document["dependencies"].as_array().unwrap().len(), 5);
    }
}

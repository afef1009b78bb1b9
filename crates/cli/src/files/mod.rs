//! Kubernetes objects from files: `-f` in, the objects with their places out, and what cannot be read. I/O: reads
//! files and standard input.

pub(crate) mod yaml;

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use api::GROUP;
use clap::Args;
use plan::Key;
use serde_json::Value;

use crate::tell;
use yaml::{Node, Unreadable, steps};

/// Which files.
#[derive(Args, Debug)]
pub(crate) struct Files {
    /// A file, a folder with all .yaml, .yml and .json files in it and below, or - for standard input; repeatable
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,

    /// The namespace of objects that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default", value_parser = crate::settings::namespace)]
    namespace: String,
}

/// The same, where something else may take their place.
#[derive(Args, Debug)]
pub(crate) struct Optional {
    /// A file, a folder with all .yaml, .yml and .json files in it and below, or - for standard input; repeatable
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    paths: Vec<PathBuf>,
}

impl Optional {
    pub(crate) fn given(&self) -> Option<Files> {
        let namespace = "default".to_owned();
        (!self.paths.is_empty()).then(|| Files { paths: self.paths.clone(), namespace })
    }
}

/// A line in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: Rc<str>,
    pub(crate) line: usize,
}

/// An object as it stands in a file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    file: Rc<str>,
    node: Node,
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// With the namespace it goes to.
    pub(crate) value: Value,
    pub(crate) key: Key,
}

/// All that was found.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) documents: Vec<Document>,
    /// What is no object.
    pub(crate) unreadable: Vec<(Place, String)>,
    /// What does not claim to be one, such as the values of a chart.
    pub(crate) plain: Vec<(Place, Value)>,
    pub(crate) files: usize,
}

impl Contents {
    /// What a text has, as if it were in a file.
    pub(crate) fn of(file: &str, text: &str) -> Self {
        let mut found = Self::default();
        Files { paths: Vec::new(), namespace: "default".to_owned() }.take(&mut found, file, text);
        found
    }

    fn unreadable(&mut self, file: &str, line: usize, problem: String) {
        self.files += 1;
        self.unreadable.push((Place { file: file.into(), line }, problem));
    }
}

impl Document {
    /// Where a field stands.
    pub(crate) fn place(&self, field: &str) -> Place {
        Place { file: self.file.clone(), line: self.node.line(&steps(field)) }
    }

    /// The group of its API version.
    pub(crate) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

impl Files {
    /// # Errors
    /// A path that is not there, or a folder that cannot be read.
    pub(crate) fn read(&self) -> Result<Contents> {
        let mut found = Contents::default();
        let mut seen = HashSet::new();
        for path in &self.paths {
            if path == Path::new("-") {
                let mut text = Vec::new();
                io::stdin().read_to_end(&mut text).context("standard input cannot be read")?;
                self.bytes(&mut found, "standard input", text);
                continue;
            }
            let mut files = Vec::new();
            let about = fs::metadata(path).with_context(|| format!("{} cannot be read", path.display()))?;
            if about.is_dir() {
                walk(path, &mut files)?;
                ensure!(!files.is_empty(), "{}: no .yaml, .yml or .json file is in it", path.display());
            } else {
                files.push(path.clone());
            }
            for file in files {
                // Two -f may lead to one file.
                if !fs::canonicalize(&file).map_or(true, |file| seen.insert(file)) {
                    continue;
                }
                let name = file.display().to_string();
                match fs::read(&file) {
                    Ok(text) => self.bytes(&mut found, &name, text),
                    Err(error) => found.unreadable(&name, 1, format!("the file cannot be read: {error}")),
                }
            }
        }
        Ok(found)
    }

    fn bytes(&self, found: &mut Contents, file: &str, text: Vec<u8>) {
        match String::from_utf8(text) {
            Ok(text) => self.take(found, file, &text),
            Err(error) => {
                let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
                found.unreadable(file, line, "the file is not UTF-8".to_owned());
            }
        }
    }

    fn take(&self, found: &mut Contents, file: &str, text: &str) {
        found.files += 1;
        let file: Rc<str> = file.into();
        for document in yaml::documents(text) {
            match document {
                Ok(node) => self.object(found, &file, &node),
                Err(Unreadable { line, problem }) => {
                    found.unreadable.push((Place { file: file.clone(), line }, problem));
                }
            }
        }
    }

    /// What is no object of Kubernetes, such as the values of a chart, is none of ours; lists are what is in them.
    fn object(&self, found: &mut Contents, file: &Rc<str>, node: &Node) {
        let mut value = node.value();
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
            // Not so the values of a chart that have a `kind`, and a kustomization.yaml.
            let ours = text("apiVersion").is_some_and(|version| version.starts_with(GROUP));
            if ours || (value.get("metadata").is_some() && value.get("spec").is_some()) {
                let place = Place { file: file.clone(), line: node.line(&[]) };
                found.unreadable.push((place, "an object needs both apiVersion and kind, as texts".to_owned()));
            } else {
                found.plain.push((Place { file: file.clone(), line: node.line(&[]) }, value));
            }
            return;
        };
        if kind.ends_with("List")
            && let Some(items) = node.items("items")
        {
            items.iter().for_each(|item| self.object(found, file, item));
            return;
        }
        if value["metadata"].is_null() {
            value["metadata"] = Value::Object(serde_json::Map::new());
        }
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            let namespace = metadata.entry("namespace").or_insert(Value::Null);
            if namespace.is_null() {
                *namespace = self.namespace.clone().into();
            }
        }
        let of = |name: &str| value.pointer(&format!("/metadata/{name}")).and_then(Value::as_str).unwrap_or_default();
        let key = Key::new(of("namespace"), of("name"));
        found.documents.push(Document { file: file.clone(), node: node.clone(), api_version, kind, key, value });
    }
}

/// Files in the order of their names. What is hidden is left out, as are links that lead nowhere or to folders and files
/// that kubectl would not take: these are told.
fn walk(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let reading = || format!("folder {} cannot be read", folder.display());
    let mut entries: Vec<_> =
        fs::read_dir(folder).with_context(reading)?.collect::<Result<_, _>>().with_context(reading)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let left_out = |why: &str| tell::note(&format!("{} is left out: {why}", path.display()));
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        let is_ours = |end: &str| matches!(end, "yaml" | "yml" | "json");
        if entry.file_type().with_context(reading)?.is_dir() {
            walk(&path, into)?;
        } else if path.is_dir() {
            left_out("a link to a folder; name that folder with another -f");
        } else if !is_ours(&end.to_ascii_lowercase()) {
        } else if !path.exists() {
            left_out("a link that leads nowhere");
        } else if !is_ours(end) {
            left_out("kubectl takes .yaml, .yml and .json, in small letters");
        } else if path.is_file() {
            into.push(path);
        }
    }
    Ok(())
}

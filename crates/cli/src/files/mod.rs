//! Kubernetes objects from files: `-f` in, the objects with their places out, and what cannot be read. I/O: reads
//! files and standard input.

pub(crate) mod yaml;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::{fs, io};

use anyhow::{Context, Result, ensure};
use clap::Args;
use plan::Key;
use serde_json::Value;

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
    pub(crate) files: usize,
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
    /// A path that is not there or cannot be read.
    pub(crate) fn read(&self) -> Result<Contents> {
        let mut found = Contents::default();
        for path in &self.paths {
            if path == Path::new("-") {
                let mut text = String::new();
                io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
                self.take(&mut found, "standard input", &text);
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
                let text = fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
                let text = String::from_utf8(text).with_context(|| format!("{} is not UTF-8", file.display()))?;
                self.take(&mut found, &file.display().to_string(), &text);
            }
        }
        Ok(found)
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
            if value.get("apiVersion").is_some() || value.get("kind").is_some() {
                let place = Place { file: file.clone(), line: node.line(&[]) };
                found.unreadable.push((place, "an object needs both apiVersion and kind, as texts".to_owned()));
            }
            return;
        };
        if kind.ends_with("List")
            && let Some(items) = node.items("items")
        {
            items.iter().for_each(|item| self.object(found, file, item));
            return;
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

/// Files in the order of their names; what is hidden, and folders that are links, are left out.
fn walk(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    let reading = || format!("folder {} cannot be read", folder.display());
    let mut entries: Vec<_> =
        fs::read_dir(folder).with_context(reading)?.collect::<Result<_, _>>().with_context(reading)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if entry.file_type().with_context(reading)?.is_dir() {
            walk(&path, into)?;
        } else if path.is_file()
            && matches!(path.extension().and_then(|end| end.to_str()), Some("yaml" | "yml" | "json"))
        {
            into.push(path);
        }
    }
    Ok(())
}

//! Every fenced block of every document: each is run, applied, parsed, or on a list of those that cannot be, with the
//! reason. A block for which nothing of that is known fails the test. One cluster for all of them.

mod blocks;
mod links;
mod play;
mod users;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use testbed::{ApiServer, RedisOptions, workspace};

use crate::stage::{NAMESPACE, PASSWORD, Stage};
use blocks::{Block, Rule, blocks};
use play::Play;

/// Those that begin with a cluster on which aiquota was never installed, in this order: the second goes on where the
/// first ends. All others find the objects of examples/quickstart, and a controller that runs.
const FROM_NOTHING: [&str; 2] = ["docs/install.md", "docs/upgrade.md"];

/// The one whose reader has WasmPlugins written by hand, and no objects: it is played where those are.
pub(crate) const MIGRATION: &str = "docs/migration.md";

/// All documents, by their paths below the root.
fn documents() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(workspace())? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "md") {
            found.push(path);
        }
    }
    for folder in ["docs", "charts", "examples"] {
        collect(&workspace().join(folder), &mut found)?;
    }
    let mut names = Vec::new();
    for path in found {
        let name = path.strip_prefix(workspace())?.to_str().context("a name that is no text")?;
        names.push(name.to_owned());
    }
    names.sort_by_key(|name| (FROM_NOTHING.iter().position(|first| first == name).unwrap_or(usize::MAX), name.clone()));
    ensure!(names.starts_with(&FROM_NOTHING.map(str::to_owned)) && names.len() > 20, "{names:?}");
    Ok(names)
}

fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else if path.extension().is_some_and(|end| end == "md") {
            into.push(path);
        }
    }
    Ok(())
}

fn read(document: &str) -> Result<String> {
    std::fs::read_to_string(workspace().join(document)).with_context(|| format!("reading {document}"))
}

/// The blocks of one document, on a stage as its reader has it.
pub(crate) async fn play(stage: &Stage, document: &str) -> Result<()> {
    let found = blocks(document, &read(document)?)?;
    ensure!(found.iter().filter(|block| block.rule == Rule::Run).count() > 2, "{document} has lost its commands");
    Play::new(stage).await?.blocks(&found).await
}

#[tokio::test]
async fn every_block_of_every_document_is_what_it_says() -> Result<()> {
    let api = ApiServer::start().await?;
    api.install_higress_crds().await?;
    let redis = RedisOptions { password: Some(PASSWORD.to_owned()), ..RedisOptions::default() };
    let stage = Stage::set_on(api, redis).await?;
    let play = Play::new(&stage).await?;
    // What a reader of docs/gitops.md has.
    stage.api.namespace("argocd").await?;
    let mut all: Vec<Block> = Vec::new();
    for document in documents()? {
        let found = blocks(&document, &read(&document)?)?;
        if document != MIGRATION {
            if !FROM_NOTHING.contains(&document.as_str()) && !found.is_empty() {
                play.quickstart().await?;
            }
            play.blocks(&found).await?;
        }
        match document.as_str() {
            "docs/install.md" => play.installed().await?,
            "docs/upgrade.md" => play.uninstalled().await?,
            _ => {}
        }
        all.extend(found);
    }
    ensure!(all.len() > 40, "{} blocks", all.len());
    blocks::ensure_no_exemption_is_stale(&all)
}

#[tokio::test]
async fn the_redis_user_of_the_security_page_may_do_what_is_asked_of_it_and_no_more() -> Result<()> {
    users::play().await
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_that_are_there() -> Result<()> {
    for document in documents()? {
        let text = read(&document)?;
        links::check(&document, &text)?;
        for file in links::files_named_in(&text) {
            ensure!(workspace().join(file).exists(), "{document} names {file}, which does not exist");
        }
    }
    Ok(())
}

#[test]
fn every_test_that_a_document_names_is_there() -> Result<()> {
    let mut sources = String::new();
    links::sources(&workspace().join("crates"), &mut sources)?;
    links::sources(&workspace().join("tests"), &mut sources)?;
    let mut count = 0;
    for document in documents()? {
        for name in links::tests_named_in(&read(&document)?) {
            ensure!(sources.contains(&format!("fn {name}(")), "{document} names the test {name}, which does not exist");
            count += 1;
        }
    }
    ensure!(count > 20, "{count} tests are named");
    Ok(())
}

/// Where the gateway is, for the modules below.
const GATEWAY: &str = NAMESPACE;

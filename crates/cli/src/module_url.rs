//! Where a module is loaded from, as given on the command line, and whether that says what runs tomorrow. Pure.

use std::fmt;
use std::str::FromStr;

/// `oci://`, `http(s)://` or `file://`, as Higress reads it in a WasmPlugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModuleUrl {
    text: String,
    names: Names,
}

/// Which module the url means tomorrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// The same: it has a version or a digest.
    One,
    /// The same only with a checksum.
    Any,
    /// Another one, as soon as there is one.
    Latest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("a module is loaded from oci://, http://, https:// or file://")]
    Scheme,
    #[error("nothing stands after the scheme")]
    Empty,
    #[error("a module's url is visible ASCII without ${{")]
    Characters,
    #[error("the digest is not sha256: and 64 hexadecimal digits")]
    Digest,
}

impl ModuleUrl {
    pub(crate) const fn names(&self) -> Names {
        self.names
    }
}

impl fmt::Display for ModuleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for ModuleUrl {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let (scheme, rest) = text.split_once("://").ok_or(Refused::Scheme)?;
        if rest.is_empty() {
            return Err(Refused::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) || text.contains("${") {
            return Err(Refused::Characters);
        }
        let names = match scheme {
            "oci" => named_by_image(rest)?,
            "http" | "https" | "file" => named_by_path(rest),
            _ => return Err(Refused::Scheme),
        };
        Ok(Self { text: text.to_owned(), names })
    }
}

/// `registry[:port]/name[:tag][@sha256:digest]`: a tag follows a colon after the last slash.
fn named_by_image(image: &str) -> Result<Names, Refused> {
    if let Some((_, digest)) = image.split_once('@') {
        let digest = digest.strip_prefix("sha256:").filter(|digest| is_sha256(digest));
        return digest.map(|_| Names::One).ok_or(Refused::Digest);
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    Ok(match name.split_once(':') {
        Some((_, "latest")) => Names::Latest,
        Some((_, tag)) if !tag.is_empty() => Names::One,
        _ => Names::Any,
    })
}

/// A path names a version in a segment such as `v1.2.3`, `1.0.0` or `ai-quota-1.0.0.wasm`.
fn named_by_path(path: &str) -> Names {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let segments = || path.split('/').skip(1);
    if segments().any(|segment| segment == "latest") {
        Names::Latest
    } else if segments().any(names_a_version) {
        Names::One
    } else {
        Names::Any
    }
}

/// Whether digits, a dot and digits stand somewhere in it.
fn names_a_version(segment: &str) -> bool {
    segment.as_bytes().windows(3).any(|three| matches!(three, [a, b'.', c] if a.is_ascii_digit() && c.is_ascii_digit()))
}

/// 64 hexadecimal digits.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_or_digest_pins_the_module() {
        let digest = format!("oci://registry.example/ai-quota@sha256:{}", "a".repeat(64));
        for url in [
            "oci://registry.example/plugins/ai-quota:1.0.0",
            "oci://registry.example:5000/ai-quota:v1",
            digest.as_str(),
            "https://example.com/v1.2.3/ai-quota.wasm",
            "file:///opt/modules/ai-quota-1.0.0.wasm",
        ] {
            assert_eq!(url.parse::<ModuleUrl>().unwrap().names(), Names::One, "{url}");
        }
    }

    #[test]
    fn latest_names_another_module_tomorrow() {
        for url in ["oci://registry.example/ai-quota:latest", "https://example.com/latest/ai-quota-1.0.0.wasm"] {
            assert_eq!(url.parse::<ModuleUrl>().unwrap().names(), Names::Latest, "{url}");
        }
    }

    #[test]
    fn an_unversioned_url_is_not_pinned() {
        for url in [
            "oci://registry.example/ai-quota",
            "oci://registry.example:5000/ai-quota",
            "oci://registry.example/ai-quota:",
            "https://10.0.0.7/ai-quota.wasm",
            "file:///opt/ai-quota.wasm",
        ] {
            assert_eq!(url.parse::<ModuleUrl>().unwrap().names(), Names::Any, "{url}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_for_its_reason() {
        for (url, reason) in [
            ("registry.example/ai-quota:1.0.0", Refused::Scheme),
            ("ftp://registry.example/ai-quota:1.0.0", Refused::Scheme),
            ("oci://", Refused::Empty),
            ("oci://registry.example/ai-quota@sha256:abc", Refused::Digest),
            ("oci://registry.example/ai quota:1.0.0", Refused::Characters),
            ("oci://registry.example/${secret.a/b.c}:1.0.0", Refused::Characters),
        ] {
            assert_eq!(url.parse::<ModuleUrl>(), Err(reason), "{url}");
        }
    }
}

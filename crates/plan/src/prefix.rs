//! The key prefix of an object that does not choose one: a namespace's objects on one first target share it, and no
//! other namespace can have it. Pure.

use api::TargetRef;
use enforcement::values::{KEY_PREFIX_MAX_LENGTH, RESERVED_KEY_PREFIX};

/// `aiquota:<namespace>/<kind>/<name>:`. A name that makes it too long is cut and told from others by a hash; they
/// are all of this namespace.
pub(crate) fn derived(namespace: &str, target: &TargetRef) -> String {
    let name = target.name.as_deref().unwrap_or_default();
    let begin = format!("{RESERVED_KEY_PREFIX}{namespace}/{}/", target.kind);
    let whole = format!("{begin}{name}:");
    if whole.len() <= KEY_PREFIX_MAX_LENGTH {
        return whole;
    }
    let hash = format!("~{:016x}:", fnv1a(name.as_bytes()));
    let room = KEY_PREFIX_MAX_LENGTH.saturating_sub(begin.len() + hash.len());
    format!("{begin}{}{hash}", name.get(..room).unwrap_or_default())
}

/// FNV-1a, 64 bits: the same in every version of this program, because keys in Redis depend on it.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use api::TargetKind;
    use enforcement::values::is_key_prefix;

    use super::*;

    fn ingress(name: &str) -> TargetRef {
        TargetRef { kind: TargetKind::Ingress, name: Some(name.to_owned()) }
    }

    #[test]
    fn a_prefix_is_made_of_namespace_kind_and_name() {
        assert_eq!(derived("team-a", &ingress("chat")), "aiquota:team-a/Ingress/chat:");
    }

    #[test]
    fn a_long_name_is_cut_to_a_valid_prefix_and_stays_itself() {
        let namespace = "n".repeat(63);
        let (a, b) = ("a".repeat(253), "a".repeat(252));
        let (first, second) = (derived(&namespace, &ingress(&a)), derived(&namespace, &ingress(&b)));
        assert!(is_key_prefix(first.as_bytes()), "{first}");
        assert_ne!(first, second);
        assert_eq!(first.len(), KEY_PREFIX_MAX_LENGTH);
        assert!(first.ends_with("~8e8f6581e0ff9e30:"), "pinned, keys in Redis depend on it: {first}");
    }
}

//! The built binary and its environment: variables as charts write them.

use std::process::Command;

const VARIABLES: [&str; 15] = [
    "AIQUOTA_GATEWAY_NAMESPACE",
    "AIQUOTA_TRUSTED_NAMESPACES",
    "AIQUOTA_MODULE_URL",
    "AIQUOTA_MODULE_SHA256",
    "AIQUOTA_IMAGE_PULL_POLICY",
    "AIQUOTA_IMAGE_PULL_SECRET",
    "AIQUOTA_FAIL_STRATEGY",
    "AIQUOTA_PHASE",
    "AIQUOTA_PRIORITY",
    "AIQUOTA_GUARD",
    "AIQUOTA_AUTH_PLUGINS",
    "AIQUOTA_LEADER_ELECTION",
    "AIQUOTA_LEASE_DURATION",
    "AIQUOTA_LOG_FORMAT",
    "AIQUOTA_LOG",
];

/// `aiquota run` with all variables empty but those given, and no cluster: exit code and standard error.
fn run(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aiquota"));
    command.arg("run").env("KUBECONFIG", "/nonexistent").env_remove("KUBERNETES_SERVICE_HOST");
    command.envs(VARIABLES.map(|variable| (variable, ""))).envs(variables.iter().copied());
    let output = command.output().expect("the built binary starts");
    (output.status.code(), String::from_utf8(output.stderr).expect("errors are text"))
}

#[test]
fn an_empty_variable_counts_as_absent() {
    let (code, said) = run(&[("AIQUOTA_MODULE_URL", "oci://registry.example/ai-quota:1.0.0")]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the API server cannot be reached"), "{said}");
}

#[test]
fn what_must_be_given_is_asked_for_where_its_variable_is_empty() {
    let (code, said) = run(&[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("required") && said.contains("--module-url"), "{said}");
}

#[test]
fn a_variable_that_is_wrong_is_refused() {
    let url = ("AIQUOTA_MODULE_URL", "oci://registry.example/ai-quota:1.0.0");
    let (code, said) = run(&[url, ("AIQUOTA_MODULE_SHA256", "abc")]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("64 hexadecimal"), "{said}");
}

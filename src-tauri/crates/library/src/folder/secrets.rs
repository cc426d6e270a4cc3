//! Signs that a file holds keys, tokens or passwords. A heuristic that errs towards warning; nothing is hidden,
//! the user decides.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whole file names, lower case.
const NAMES: &[(&str, &str)] = &[
    (".netrc", "holds passwords"),
    ("_netrc", "holds passwords"),
    (".pgpass", "holds passwords"),
    (".htpasswd", "holds passwords"),
    (".git-credentials", "holds credentials"),
    (".npmrc", "may hold a registry token"),
    (".pypirc", "may hold a registry token"),
    (".dockercfg", "may hold a registry token"),
    ("credentials", "holds credentials"),
    ("credentials.json", "holds credentials"),
    ("client_secret.json", "holds credentials"),
    ("secrets.json", "holds secrets"),
    ("secrets.yaml", "holds secrets"),
    ("secrets.yml", "holds secrets"),
    ("secrets.toml", "holds secrets"),
    ("terraform.tfstate", "may hold secrets of the infrastructure"),
];

/// File name endings, lower case.
const ENDINGS: &[(&str, &str)] = &[
    (".pem", "may be a private key"),
    (".key", "may be a private key"),
    (".ppk", "is a private key"),
    (".p8", "may be a private key"),
    (".p12", "is a key store"),
    (".pfx", "is a key store"),
    (".jks", "is a key store"),
    (".keystore", "is a key store"),
    (".kdbx", "is a password store"),
    (".tfvars", "may hold secrets of the infrastructure"),
    (".ovpn", "may hold a private key"),
];

const SSH_KEYS: &[&str] = &["id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_ecdsa_sk", "id_ed25519_sk"];

/// Endings of templates that carry no real values.
const TEMPLATES: &[&str] = &[".example", ".sample", ".template", ".dist", ".defaults"];

/// How tokens of well-known services begin, how long they are at least, and whose they are.
const TOKENS: &[(&str, usize, &str)] = &[
    ("AKIA", 20, "an AWS access key"),
    ("ASIA", 20, "an AWS access key"),
    ("ghp_", 40, "a GitHub token"),
    ("gho_", 40, "a GitHub token"),
    ("ghu_", 40, "a GitHub token"),
    ("ghs_", 40, "a GitHub token"),
    ("ghr_", 40, "a GitHub token"),
    ("github_pat_", 60, "a GitHub token"),
    ("glpat-", 26, "a GitLab token"),
    ("xoxb-", 30, "a Slack token"),
    ("xoxp-", 30, "a Slack token"),
    ("xoxa-", 30, "a Slack token"),
    ("xapp-", 30, "a Slack token"),
    ("AIza", 39, "a Google API key"),
    ("hf_", 37, "a Hugging Face token"),
    ("npm_", 40, "an npm token"),
    ("pypi-", 60, "a PyPI token"),
    ("sk_live_", 24, "a Stripe key"),
    ("rk_live_", 24, "a Stripe key"),
    ("sk-ant-", 40, "an API key"),
    ("sk-proj-", 40, "an API key"),
    ("sk-", 48, "an API key"),
    ("dop_v1_", 60, "a DigitalOcean token"),
    ("SG.", 60, "a SendGrid key"),
];

/// Why a text file looks like it holds secrets, by its name or else by what is in it; when cancelled, by what was looked at.
pub(crate) fn reason(file_name: &str, content: &[u8], cancel: &AtomicBool) -> Option<String> {
    by_name(file_name).map(str::to_owned).or_else(|| by_content(content, cancel))
}

/// Why the file name says that this is a secret.
fn by_name(file_name: &str) -> Option<&'static str> {
    let name = file_name.to_ascii_lowercase();
    if TEMPLATES.iter().any(|ending| name.ends_with(ending)) {
        return None;
    }
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending);
    if name.starts_with(".env.") || ending == "env" {
        return Some("holds environment settings, often with passwords");
    }
    if SSH_KEYS.contains(&name.as_str()) {
        return Some("is a private SSH key");
    }
    if name.starts_with("service-account") && ending == "json" || name.starts_with("client_secret_") {
        return Some("holds credentials");
    }
    let exact = NAMES.iter().find(|(n, _)| *n == name);
    exact.or_else(|| ENDINGS.iter().find(|(ending, _)| name.ends_with(ending))).map(|(_, reason)| *reason)
}

/// Why the content says so.
fn by_content(bytes: &[u8], cancel: &AtomicBool) -> Option<String> {
    if has_private_key(bytes, cancel) {
        return Some("contains a private key".to_owned());
    }
    let is_token_byte = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    bytes
        .split(|b| !is_token_byte(b))
        .take_while(|_| !cancel.load(Ordering::Relaxed))
        .filter(|word| word.len() >= 20)
        .find_map(token_owner)
        .map(|owner| format!("contains what looks like {owner}"))
}

/// A real token is long and mixes digits with letters; a placeholder (`ghp_xxxxxxxx…`) repeats itself.
fn token_owner(word: &[u8]) -> Option<&'static str> {
    let (prefix, _, owner) =
        TOKENS.iter().find(|(prefix, len, _)| word.len() >= *len && word.starts_with(prefix.as_bytes()))?;
    let body = &word[prefix.len()..];
    let mut seen = [false; 256];
    for byte in body {
        seen[usize::from(*byte)] = true;
    }
    let distinct = seen.iter().filter(|s| **s).count();
    if distinct < 8 || !body.iter().any(u8::is_ascii_digit) {
        return None;
    }
    let upper_only = prefix.ends_with("IA");
    if upper_only && (word.len() != 20 || !body.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())) {
        return None;
    }
    Some(owner)
}

/// A `BEGIN … PRIVATE KEY` line with more than a line of base64 behind it; code that only mentions it has none.
fn has_private_key(bytes: &[u8], cancel: &AtomicBool) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const KEY: &[u8] = b"PRIVATE KEY";
    let mut lines = bytes.split(|b| matches!(b, b'\n' | b'\r')).filter(|l| !l.is_empty()).peekable();
    while let Some(line) = lines.next().filter(|_| !cancel.load(Ordering::Relaxed)) {
        let Some(at) = find(line, BEGIN) else { continue };
        if find(&line[at..], KEY).is_none() {
            continue;
        }
        // In JSON the whole key stands on one line with escaped line ends.
        let rest = &line[at..];
        let next_is_base64 = lines.peek().is_some_and(|l| is_base64_line(l));
        if next_is_base64 || rest.len() > 200 {
            return true;
        }
    }
    false
}

fn is_base64_line(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    // Old keys begin with `Proc-Type:` and `DEK-Info:` lines.
    line.starts_with(b"Proc-Type:")
        || line.len() >= 32 && line.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='))
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|w| w == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_content(bytes: &[u8]) -> Option<String> {
        super::by_content(bytes, &AtomicBool::new(false))
    }

    #[test]
    fn names_of_secrets_are_known() {
        for name in [".env", ".env.production", "prod.env", "id_rsa", "server.pem", "TLS.KEY", ".netrc", "secrets.yaml"]
        {
            assert!(by_name(name).is_some(), "{name}");
        }
        for name in [".env.example", "id_rsa.pub", "environment.rs", "keys.rs", "main.rs", ".envrc.sample"] {
            assert!(by_name(name).is_none(), "{name}");
        }
    }

    #[test]
    fn contents_of_secrets_are_known() {
        // Put together here, so that this source is none itself.
        let token = format!("token = \"{}{}\"", "ghp", "_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8");
        assert_eq!(by_content(token.as_bytes()).unwrap(), "contains what looks like a GitHub token");
        let aws = format!("key={}{}\n", "AKIA", "Q3EGRIJ5KL2MN7OP");
        assert_eq!(by_content(aws.as_bytes()).unwrap(), "contains what looks like an AWS access key");
        let key =
            format!("x\n-----BEGIN RSA {} KEY-----\n{}\n", "PRIVATE", "MIIEpAIBAAKCAQEA0Z3VS5JJcds3xfn".repeat(2));
        assert!(by_content(key.as_bytes()).is_some());
    }

    #[test]
    fn placeholders_and_mentions_are_not_secrets() {
        for text in [
            "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "if line.contains(\"-----BEGIN PRIVATE KEY-----\") { return true; }\nlet x = 1;",
            "AKIA is how they begin",
            "sk-learn-is-a-library-with-a-very-long-name-but-no-digits-in-it-at-all",
            "hf_hub_download_of_some_function_name_that_is_long",
        ] {
            assert_eq!(by_content(text.as_bytes()), None, "{text}");
        }
    }
}

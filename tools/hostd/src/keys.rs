//! Keys for SSH: Ed25519 pairs in OpenSSH's files.
//!
//! The private file is `openssh-key-v1` without a passphrase (OpenSSH `PROTOCOL.key`), the public key
//! as in RFC 4253 6.6 and RFC 8709.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{Ed25519KeyPair, KeyPair};

const KIND: &[u8] = b"ssh-ed25519";

/// Characters of a line in the private key's file, as `ssh-keygen` writes them.
const LINE: usize = 70;

/// Blocks that the private part is padded to where no cipher is used.
const PADDING: usize = 8;

/// A pair of keys.
pub struct SshKey {
    /// The private key's file.
    pub private: Vec<u8>,
    /// The public key, as a line without its end: kind, key, comment.
    pub public: String,
}

impl SshKey {
    /// A new pair from the system's randomness. The comment is one line.
    pub fn generate(comment: &str) -> io::Result<Self> {
        let mut seed = [0; 32];
        random(&mut seed)?;
        let mut check = [0; 4];
        random(&mut check)?;
        Self::from_seed(&seed, check, comment)
    }

    fn from_seed(seed: &[u8; 32], check: [u8; 4], comment: &str) -> io::Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        let pair = pair.map_err(|error| io::Error::other(error.to_string()))?;
        let point = pair.public_key().as_ref();
        let mut public = Vec::new();
        string(&mut public, KIND);
        string(&mut public, point);

        let mut secret = [check, check].concat();
        string(&mut secret, KIND);
        string(&mut secret, point);
        string(&mut secret, &[&seed[..], point].concat());
        string(&mut secret, comment.as_bytes());
        let missing = secret.len().next_multiple_of(PADDING) - secret.len();
        secret.extend((1..=missing).map(|n| n as u8));

        let mut file = b"openssh-key-v1\0".to_vec();
        for part in [&b"none"[..], b"none", b""] {
            string(&mut file, part);
        }
        file.extend_from_slice(&1u32.to_be_bytes());
        string(&mut file, &public);
        string(&mut file, &secret);
        let text = STANDARD.encode(file);
        let mut private = b"-----BEGIN OPENSSH PRIVATE KEY-----\n".to_vec();
        for line in text.as_bytes().chunks(LINE) {
            private.extend_from_slice(line);
            private.push(b'\n');
        }
        private.extend_from_slice(b"-----END OPENSSH PRIVATE KEY-----\n");
        let public = format!("ssh-ed25519 {} {comment}", STANDARD.encode(public));
        Ok(Self { private, public })
    }
}

/// Fills `bytes` from the system's randomness.
pub(crate) fn random(bytes: &mut [u8]) -> io::Result<()> {
    getrandom::fill(bytes).map_err(io::Error::other)
}

/// A string of RFC 4251: its length, then its bytes.
fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn openssh_reads_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for comment in ["", "a", "shale web", "root@some.host.name"] {
            let key = SshKey::generate(comment).unwrap();
            fs::write(&path, &key.private).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let output = Command::new("ssh-keygen")
                .arg("-y")
                .arg("-f")
                .arg(&path)
                .output();
            let output = output.expect("ssh-keygen runs (Debian package openssh-client)");
            let text = String::from_utf8(output.stdout).unwrap();
            assert_eq!(
                text.trim_end(),
                key.public.trim_end(),
                "{output:?}",
                output = output.stderr
            );
        }
    }

    #[test]
    fn no_two_are_alike() {
        let [a, b] = [(); 2].map(|()| SshKey::generate("x").unwrap());
        assert_ne!(a.private, b.private);
        assert_ne!(a.public, b.public);
    }
}

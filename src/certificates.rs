//! Certificates and keys in PEM files, and the cryptography of TLS, for the service's listener and
//! for its connections to PostgreSQL.
//!
//! Errors say nothing of a file's contents, because they may be a key.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use rustls::{
    RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};
use tokio::io::AsyncReadExt as _;
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// A file does not have the required contents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} {}: {fault}", .path.display())]
pub struct FileError {
    /// The option or parameter that names the file.
    pub option: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The reason for which the file cannot be used.
    pub fault: String,
}

impl FileError {
    /// The error for a file that `option` names.
    pub fn new(option: &'static str, path: &Path, fault: impl Into<String>) -> Self {
        Self { option, path: path.to_owned(), fault: fault.into() }
    }

    /// The error for a key that does not belong to the first certificate of another option's file.
    pub fn other_key(option: &'static str, key: &Path, cert_option: &str, cert: &Path) -> Self {
        let cert = cert.display();
        Self::new(
            option,
            key,
            format!("is not the key of the first certificate in {cert_option} {cert}"),
        )
    }

    fn unreadable(option: &'static str, path: &Path, error: &io::Error) -> Self {
        Self::new(option, path, format!("cannot be read: {error}"))
    }
}

/// The only implementation of cryptography. It is passed explicitly, because the default of the
/// process could be another.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The contents of a file.
pub async fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, FileError> {
    let unreadable = |error: io::Error| FileError::unreadable(option, path, &error);
    tokio::fs::read(path).await.map_err(unreadable)
}

/// The contents of a file that others must not be able to read, by the rule of libpq: a file of
/// root may be readable by its group, and another file by its owner only.
pub async fn read_private(option: &'static str, path: &Path) -> Result<Vec<u8>, FileError> {
    let unreadable = |error: io::Error| FileError::unreadable(option, path, &error);
    let mut file = tokio::fs::File::open(path).await.map_err(unreadable)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = file.metadata().await.map_err(unreadable)?;
        if is_open(metadata.uid(), metadata.mode()) {
            return Err(FileError::new(
                option,
                path,
                format!(
                    "others can read or change it (mode {:04o}): set mode 0600, or 0640 if root \
                     owns it",
                    metadata.mode() & 0o7777
                ),
            ));
        }
    }
    let mut contents = Vec::new();
    file.read_to_end(&mut contents).await.map_err(unreadable)?;
    Ok(contents)
}

/// Whether a file of this owner and mode is open to others than those that a key may be open to.
#[cfg(unix)]
const fn is_open(owner: u32, mode: u32) -> bool {
    mode & (if owner == 0 { 0o037 } else { 0o077 }) != 0
}

/// The certificates of a PEM file, at least one, and when the first of them expires.
pub fn certificates(
    option: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<(Vec<CertificateDer<'static>>, DateTime<Utc>), FileError> {
    let wrong = |fault: String| FileError::new(option, path, fault);
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(not_pem(&error)))?;
    if all.is_empty() {
        return Err(wrong(nothing(pem, "certificate")));
    }
    let mut ends = Vec::with_capacity(all.len());
    for certificate in &all {
        let parsed =
            X509Certificate::from_der(certificate).ok().filter(|(rest, _)| rest.is_empty());
        let (_, parsed) =
            parsed.ok_or_else(|| wrong("has a CERTIFICATE that cannot be parsed".into()))?;
        let end = DateTime::from_timestamp(parsed.validity().not_after.timestamp(), 0);
        ends.push(end.unwrap_or(DateTime::<Utc>::MAX_UTC));
    }
    Ok((all, ends.into_iter().min().unwrap_or(DateTime::<Utc>::MAX_UTC)))
}

/// The private key of a PEM file.
pub fn private_key(
    option: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<PrivateKeyDer<'static>, FileError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let fault = match error {
            pem::Error::NoItemsFound if contains(pem, b"ENCRYPTED PRIVATE KEY") => {
                "is encrypted; give the key without a password".into()
            }
            pem::Error::NoItemsFound => nothing(pem, "private key"),
            error => not_pem(&error),
        };
        FileError::new(option, path, fault)
    })
}

/// Whether a certificate may sign others.
pub fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.is_ca())
}

/// The authorities of a file, as what to trust.
pub fn authorities(
    option: &'static str,
    path: &Path,
    certificates: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates {
        roots.add(authority).map_err(|error| {
            let fault = format!("has a certificate that cannot be trusted: {error}");
            FileError::new(option, path, fault)
        })?;
    }
    Ok(roots)
}

fn nothing(pem: &[u8], wanted: &str) -> String {
    if contains(pem, b"-----BEGIN ") {
        format!("has no {wanted}")
    } else {
        format!("is not PEM: it has no {wanted}")
    }
}

fn not_pem(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "is not PEM: a BEGIN has no END".into(),
        pem::Error::Base64Decode(_) => {
            "is not PEM: the text between BEGIN and END is not base64".into()
        }
        _ => "is not PEM".into(),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_for_its_owner_or_for_the_group_of_a_file_of_root() {
        for (owner, mode, open) in [
            (1000, 0o600, false),
            (1000, 0o400, false),
            (1000, 0o640, true),
            (1000, 0o604, true),
            (0, 0o600, false),
            (0, 0o640, false),
            (0, 0o440, false),
            (0, 0o644, true),
            (0, 0o660, true),
            (0, 0o601, true),
        ] {
            assert_eq!(is_open(owner, 0o100_000 | mode), open, "{owner} {mode:o}");
        }
    }
}

//! Development tokens, signed with a key that only this developer has: `customer-accounts token`.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Map, Value, json};

use super::{
    MAX_ACTOR, TenantId, is_actor,
    options::{DevelopmentToken, TokenOptions},
};

/// The `iss` of these tokens.
pub const ISSUER: &str = "customer-accounts-development";
/// Their `aud`, unless --token-audience is set.
pub const AUDIENCE: &str = "customer-accounts";
/// The private key, in PKCS #8.
const KEY: &str = "development-key.pem";
/// The key set of a service that accepts these tokens.
const KEY_SET: &str = "development-jwks.json";

/// A token, and the options of a service that accepts it.
#[derive(Debug)]
pub struct Made {
    /// The token.
    pub token: String,
    /// Its audience.
    pub audience: String,
    /// The file with the key set.
    pub key_set: PathBuf,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The tenant is not a tenant id.
    #[error("--tenant must be 1 to 64 letters, digits, '_' or '-'")]
    Tenant,
    /// The subject is not an actor.
    #[error("--subject must have 1 to {MAX_ACTOR} characters, none of them a control character")]
    Subject,
    /// The key cannot be written or read.
    #[error(
        "the key in {} cannot be used: {source}; choose another folder with --key-dir",
        folder.display()
    )]
    Key {
        /// The folder.
        folder: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// The key cannot sign.
    #[error("the key cannot sign: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
}

/// Makes a token. On first use it creates the key.
pub fn make(
    options: &DevelopmentToken,
    tokens: &TokenOptions,
    data_dir: &Path,
) -> Result<Made, TokenError> {
    let tenant = TenantId::parse(&options.tenant).ok_or(TokenError::Tenant)?;
    if !is_actor(&options.subject) {
        return Err(TokenError::Subject);
    }
    let folder = options.key_dir.as_deref().unwrap_or(data_dir);
    let unusable = |source| TokenError::Key { folder: folder.to_owned(), source };
    let key = private_key(folder).map_err(unusable)?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key);
    let pair = pair.map_err(|rejected| unusable(io::Error::other(rejected)))?;
    let (kid, key_set) = publish(folder, &pair).map_err(unusable)?;

    let audience = tokens.audiences.first().map_or(AUDIENCE, String::as_str).to_owned();
    let now = get_current_timestamp();
    let mut claims = json!({
        "iss": ISSUER, "aud": audience, "sub": options.subject,
        "iat": now, "exp": now + options.expires_in.as_secs(),
    });
    put(&mut claims, &tokens.tenant_claim, json!(tenant.as_str()));
    put(&mut claims, &tokens.roles_claim, json!(options.roles));
    put(&mut claims, &tokens.tenant_wide_claim, json!(options.tenant_wide));
    let header = Header { kid: Some(kid), ..Header::new(Algorithm::ES256) };
    let token = encode(&header, &claims, &EncodingKey::from_ec_der(&key))?;
    Ok(Made { token, audience, key_set })
}

/// Sets a claim by its name or JSON pointer, so that the service finds it there.
fn put(claims: &mut Value, name: &str, value: Value) {
    let Some(path) = name.strip_prefix('/') else {
        claims[name] = value;
        return;
    };
    let mut place = claims;
    for part in path.split('/') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[part.replace("~1", "/").replace("~0", "~")];
    }
    *place = value;
}

/// Reads the key in the folder; creates it if there is none.
fn private_key(folder: &Path) -> io::Result<Vec<u8>> {
    fs::create_dir_all(folder)?;
    let path = folder.join(KEY);
    if !path.exists() {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .and_then(|pair| pair.to_pkcs8v1());
        let key = STANDARD.encode(key.map_err(io::Error::other)?);
        let lines: Vec<_> = key.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            lines.join("\n")
        );
        let temporary = write_temporary(&path, &pem)?;
        // A hard link fails if the file exists, where a rename would replace a key that another
        // process has just created.
        let linked = fs::hard_link(&temporary, &path);
        fs::remove_file(temporary)?;
        linked.or_else(|error| {
            if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
        })?;
    }
    let pem = fs::read_to_string(path)?;
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(base64).map_err(io::Error::other)
}

/// Writes the key set beside the key. Returns the key's id and the file.
fn publish(folder: &Path, pair: &EcdsaKeyPair) -> io::Result<(String, PathBuf)> {
    let point = pair.public_key().as_ref();
    // An uncompressed point: the byte 4, x, y.
    let (x, y) = point.get(1..).unwrap_or_default().split_at(32.min(point.len() / 2));
    let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
    let kid: String = URL_SAFE_NO_PAD.encode(digest(&SHA256, point)).chars().take(16).collect();
    let key = json!({
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y,
    });
    let path = std::path::absolute(folder)?.join(KEY_SET);
    let temporary = write_temporary(&path, &format!("{}\n", json!({"keys": [key]})))?;
    fs::rename(temporary, &path)?;
    Ok((kid, path))
}

/// Writes a file that only its owner can read, under a temporary name beside `path`, so that no
/// reader sees half of it.
fn write_temporary(path: &Path, text: &str) -> io::Result<PathBuf> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(&temporary)?.write_all(text.as_bytes())?;
    Ok(temporary)
}

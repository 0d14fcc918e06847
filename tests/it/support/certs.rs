//! Certificates: authorities of the test's own, files that a service reads them from, and clients
//! that show and check them.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use chrono::{Datelike as _, TimeDelta, Utc};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, SignatureAlgorithm, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

/// A certificate and its key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    pub cert: String,
    pub key: String,
    pub serial: u64,
}

impl Pair {
    fn parsed(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain =
            CertificateDer::pem_slice_iter(self.cert.as_bytes()).collect::<Result<_, _>>().unwrap();
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap())
    }

    /// The TLS configuration of a server with this certificate.
    pub fn acceptor(&self) -> TlsAcceptor {
        let (chain, key) = self.parsed();
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()))
    }
}

/// An authority that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// The validity of a certificate, in days from today.
#[derive(Clone, Copy)]
pub struct Days(pub i64);

/// Longer than any test.
pub const LONG: Days = Days(365);

impl Authority {
    pub fn new() -> Self {
        Self::signing_by(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// An authority that signs by this algorithm.
    pub fn signing_by(algorithm: &'static SignatureAlgorithm) -> Self {
        Self::made(algorithm, IsCa::Ca(BasicConstraints::Unconstrained))
    }

    /// One that signs although its certificate does not allow it.
    pub fn without_permission() -> Self {
        Self::made(&rcgen::PKCS_ECDSA_P256_SHA256, IsCa::ExplicitNoCa)
    }

    fn made(algorithm: &'static SignatureAlgorithm, is_ca: IsCa) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = is_ca;
        params
            .distinguished_name
            .push(DnType::CommonName, format!("authority {}", super::unique()));
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The authority's own certificate and key, with which a server may show it as its own.
    pub fn itself(&self) -> Pair {
        Pair { cert: self.pem.clone(), key: self.issuer.key().serialize_pem(), serial: 0 }
    }

    /// For a service on a loopback address.
    pub fn server(&self) -> Pair {
        self.sign(&[], LONG, "accounts", &[ExtendedKeyUsagePurpose::ServerAuth])
    }

    /// For a client with these names: URIs have a colon, the others are DNS names.
    pub fn client(&self, names: &[&str]) -> Pair {
        self.client_for(names, LONG)
    }

    pub fn client_for(&self, names: &[&str], days: Days) -> Pair {
        // A common name, which must be ignored.
        self.sign(names, days, "admin", &[ExtendedKeyUsagePurpose::ClientAuth])
    }

    pub fn sign(
        &self,
        names: &[&str],
        days: Days,
        common_name: &str,
        purposes: &[ExtendedKeyUsagePurpose],
    ) -> Pair {
        static SERIALS: AtomicU64 = AtomicU64::new(1);
        let serial = SERIALS.fetch_add(1, Ordering::Relaxed);
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial.into());
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = purposes.to_vec();
        let date = |days| {
            let day = Utc::now() + TimeDelta::days(days);
            date_time_ymd(
                day.year(),
                day.month().try_into().unwrap(),
                day.day().try_into().unwrap(),
            )
        };
        params.not_before = date(-30);
        params.not_after = date(days.0);
        let name = |name: &&str| {
            let text = (*name).try_into().unwrap();
            if name.contains(':') { SanType::URI(text) } else { SanType::DnsName(text) }
        };
        params.subject_alt_names = names.iter().map(name).collect();
        if purposes.contains(&ExtendedKeyUsagePurpose::ServerAuth) {
            params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Pair { cert, key: key.serialize_pem(), serial }
    }
}

/// The files of a service, mounted as Kubernetes mounts a secret: links to links, swapped all at
/// once.
pub struct Mounted {
    folder: TempDir,
    versions: AtomicU64,
}

impl Mounted {
    pub fn new(pair: &Pair, client_ca: Option<&str>) -> Self {
        let mounted = Self { folder: tempfile::tempdir().unwrap(), versions: AtomicU64::new(0) };
        mounted.swap(pair, client_ca);
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(file), mounted.folder.path().join(file)).unwrap();
        }
        mounted
    }

    /// Replaces all files at once.
    pub fn swap(&self, pair: &Pair, client_ca: Option<&str>) {
        let folder = self.folder.path();
        let version = format!("v{}", self.versions.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(folder.join(&version)).unwrap();
        for (file, text) in [
            ("tls.crt", &*pair.cert),
            ("tls.key", &*pair.key),
            ("ca.crt", client_ca.unwrap_or_default()),
        ] {
            let path = folder.join(&version).join(file);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        symlink(&version, folder.join("..new")).unwrap();
        fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
    }

    pub fn path(&self, file: &str) -> String {
        self.folder.path().join(file).to_str().unwrap().to_owned()
    }

    /// The options that name the files.
    pub fn options(&self, mutual: bool) -> Vec<String> {
        let options =
            [("--tls-cert", "tls.crt"), ("--tls-key", "tls.key"), ("--tls-client-ca", "ca.crt")];
        let used = options.into_iter().take(if mutual { 3 } else { 2 });
        used.flat_map(|(option, file)| [option.to_owned(), self.path(file)]).collect()
    }
}

/// What a client trusts and shows.
#[derive(Clone)]
pub struct Trust<'a> {
    pub ca: &'a str,
    pub shows: Option<&'a Pair>,
    pub version: Option<&'static SupportedProtocolVersion>,
}

impl<'a> Trust<'a> {
    /// Trusts the server's authority and shows nothing.
    pub fn of(authority: &'a Authority) -> Self {
        Self { ca: &authority.pem, shows: None, version: None }
    }

    pub fn showing(self, pair: &'a Pair) -> Self {
        Self { shows: Some(pair), ..self }
    }

    /// A TLS connection whose handshake the client has completed.
    pub async fn handshake(&self, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        self.connector(b"h2").connect(ServerName::from(address.ip()), stream).await
    }

    /// The client's side of TLS, for this protocol.
    pub fn connector(&self, protocol: &[u8]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = match self.version {
            Some(version) => builder.with_protocol_versions(&[version]).unwrap(),
            None => builder.with_safe_default_protocol_versions().unwrap(),
        };
        let builder = builder.with_root_certificates(roots);
        let mut config = match self.shows {
            Some(pair) => {
                let (chain, key) = pair.parsed();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
    }

    /// A channel over one connection, which is never made anew, and the serial number of the
    /// service's certificate.
    pub async fn connect(&self, address: SocketAddr) -> Result<(Channel, u64), String> {
        let stream = self.handshake(address).await.map_err(|error| error.to_string())?;
        let serial = serial(&stream);
        let once = Arc::new(Mutex::new(Some(stream)));
        let connector = tower::service_fn(move |_| {
            let stream = once.lock().unwrap().take();
            async move {
                stream
                    .map(TokioIo::new)
                    .ok_or_else(|| io::Error::other("the one connection has ended"))
            }
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| format!("{error:?}"))?;
        Ok((channel, serial))
    }
}

fn serial(stream: &TlsStream<TcpStream>) -> u64 {
    let certificate = &stream.get_ref().1.peer_certificates().unwrap()[0];
    let (_, certificate) = X509Certificate::from_der(certificate).unwrap();
    certificate.serial.to_string().parse().unwrap()
}

//! Makes certificates for development and small installations: an authority, the collector's certificate, one for each device.
//!
//! Files are named as everywhere in devmon ([`CertFiles`]); the authority's key is `root-CA.private.key`. Private keys can be read by their owner
//! only. No file is ever overwritten: losing an authority's key means visiting every device.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use devmon_core::tls::CertFiles;
use devmon_core::wire::DeviceId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::cli::Certs;
use crate::config::{CERT_NAME, Invalid};

const CA_YEARS: i32 = 20;
const YEARS: i32 = 5;

/// Does what `certs …` says.
///
/// # Errors
/// A file that is there already, can not be written, or can not be read.
pub fn run(command: &Certs) -> anyhow::Result<()> {
    let written = match command {
        Certs::Init { dir, host } => init(dir, host)?,
        Certs::Device { name, dir } => {
            let device = name
                .parse()
                .map_err(|e: devmon_core::wire::device::DeviceIdError| Invalid(e.to_string()))?;
            self::device(dir, &device)?
        }
    };
    for path in written {
        println!("{}", path.display());
    }
    Ok(())
}

/// Makes the authority and the collector's certificate for the given hosts; returns the files.
///
/// # Errors
/// A file that is there already or can not be written; a host that is no name.
pub fn init(dir: &Path, hosts: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    let ca_key = KeyPair::generate()?;
    let mut ca = params("devmon certificate authority", CA_YEARS, Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = Issuer::from_params(&ca, &ca_key);

    let mut own = params(CERT_NAME, YEARS, hosts.to_vec())?;
    // Server for its devices, client of a broker.
    own.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let own_key = KeyPair::generate()?;
    let own_cert = own.signed_by(&own_key, &issuer)?;

    let files = CertFiles::named(dir, CERT_NAME);
    write_all(
        dir,
        &[
            (files.ca, ca_cert.pem(), Access::Everybody),
            (ca_key_path(dir), ca_key.serialize_pem(), Access::Owner),
            (files.cert, own_cert.pem(), Access::Everybody),
            (files.key, own_key.serialize_pem(), Access::Owner),
        ],
    )
}

/// Makes the certificate of a device, signed by the authority in `dir`; returns the files.
///
/// # Errors
/// No authority in `dir`; a file that is there already or can not be written.
pub fn device(dir: &Path, device: &DeviceId) -> anyhow::Result<Vec<PathBuf>> {
    let files = CertFiles::named(dir, device.as_str());
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| {
            format!(
                "cannot read {}; devmon-collector certs init --dir {} makes an authority",
                path.display(),
                dir.display()
            )
        })
    };
    let ca_key = KeyPair::from_pem(&read(&ca_key_path(dir))?)
        .context("root-CA.private.key is no private key")?;
    let issuer = Issuer::from_ca_cert_pem(&read(&files.ca)?, ca_key)
        .context("root-CA.crt is no certificate")?;

    let mut params = params(device.as_str(), YEARS, Vec::new())?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, &issuer)?;
    write_all(
        dir,
        &[
            (files.cert, cert.pem(), Access::Everybody),
            (files.key, key.serialize_pem(), Access::Owner),
        ],
    )
}

fn ca_key_path(dir: &Path) -> PathBuf {
    dir.join("root-CA.private.key")
}

fn params(common_name: &str, years: i32, hosts: Vec<String>) -> anyhow::Result<CertificateParams> {
    let mut params =
        CertificateParams::new(hosts).context("a host is neither a name nor an address")?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.use_authority_key_identifier_extension = true;
    let year = this_year();
    // From the beginning of last year: a device's clock may be behind, or not set far.
    params.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(year + years, 1, 1);
    Ok(params)
}

fn this_year() -> i32 {
    const SECONDS_PER_YEAR: u64 = 31_556_952; // of the Gregorian calendar, on average
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    1970 + i32::try_from(since / SECONDS_PER_YEAR).unwrap_or(0)
}

enum Access {
    Owner,
    Everybody,
}

fn write_all(dir: &Path, files: &[(PathBuf, String, Access)]) -> anyhow::Result<Vec<PathBuf>> {
    if let Some((there, ..)) = files.iter().find(|(path, ..)| path.exists()) {
        bail!(
            "{} is there already and is not overwritten; choose another folder with --dir, or move it away",
            there.display()
        );
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut written = Vec::new();
    for (path, text, access) in files {
        let mode = match access {
            Access::Owner => 0o600,
            Access::Everybody => 0o644,
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        written.push(path.clone());
    }
    Ok(written)
}

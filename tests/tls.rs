//! libpq's `sslmode`s against a real PostgreSQL with certificates made for the test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outboxd::store::postgres::connect::parse_url;
use tokio::task::JoinSet;

use crate::support::postgres::{as_owner, bin};

/// Made as an administrator would: an authority, a server certificate for `localhost` only, a client certificate for the
/// user `tls`, an authority nobody trusts, and a self-signed certificate that says it is an authority.
const CERTIFICATES: &str = r#"
set -e; cd "$1"
new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -subj "/CN=$2" "${@:3}"; }
new ca ca -x509 -days 2 -out ca.crt
new other other -x509 -days 2 -out other.crt
new self localhost -x509 -days 2 -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:TRUE -out self.crt
new server localhost -out server.csr
printf 'subjectAltName=DNS:localhost\n' >san
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.crt
new client tls -out client.csr
printf 'extendedKeyUsage=clientAuth\n' >usage
openssl x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile usage -out client.crt
chmod 600 *.key; chmod 644 client.key ca.key
"#;

/// A cluster with TLS, stopped and removed at the end. User `tls` is let in by certificate only.
struct Cluster {
    directory: tempfile::TempDir,
    port: u16,
    server: Child,
}

/// As the user PostgreSQL accepts, quietly, and not longer than the tests.
fn as_postgres(name: &str) -> Command {
    let mut command = as_owner("INT", bin(name));
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn run(mut command: Command) {
    let status = command
        .status()
        .expect("installed (apt-get install postgresql openssl)");
    assert!(status.success(), "{command:?}: {status}");
}

impl Cluster {
    fn start(certificate: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let mut make = as_postgres("bash");
        make.args(["-c", CERTIFICATES, "bash"]).arg(&path);
        run(make);
        let data = path.join("data");
        let mut init = as_postgres("initdb");
        init.args(["--no-sync", "-A", "trust", "-U", "postgres", "-D"])
            .arg(&data);
        run(init);
        let hba = "hostssl all tls all cert\nhostssl all all all trust\nlocal all all trust\n";
        let mut write = as_postgres("bash");
        write
            .args(["-c", r#"printf "$1" >"$2"/pg_hba.conf"#, "bash", hba])
            .arg(&data);
        run(write);
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let mut server = as_postgres("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(&path).args([
            "-p",
            &port.to_string(),
            "-c",
            "fsync=off",
            "-c",
            "ssl=on",
        ]);
        for (setting, file) in [("ssl_cert_file", "crt"), ("ssl_key_file", "key")] {
            server.arg("-c").arg(format!(
                "{setting}={}",
                path.join(format!("{certificate}.{file}")).display()
            ));
        }
        server
            .arg("-c")
            .arg(format!("ssl_ca_file={}", path.join("ca.crt").display()));
        let server = server.spawn().expect("postgres");
        let cluster = Self {
            directory,
            port,
            server,
        };
        cluster.wait();
        cluster.psql("create role tls login; create role plain login");
        cluster
    }

    fn psql(&self, sql: &str) -> bool {
        let mut psql = as_postgres("psql");
        psql.args(["-XqAt", "-U", "postgres", "-p", &self.port.to_string(), "-h"])
            .arg(self.directory.path());
        psql.args(["-c", sql, "postgres"]).status().expect("psql").success()
    }

    /// Returns once the server answers; psql itself waits for each answer.
    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while !self.psql("select 1") {
            assert!(
                Instant::now() < until,
                "PostgreSQL did not start in {}",
                self.directory.path().display()
            );
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Whether the connection is encrypted, or why there is none.
    async fn connect(&self, user: &str, host: &str, parameters: &str) -> Result<bool, String> {
        let file = |name: &str| self.file(name).display().to_string();
        let parameters = parameters
            .replace("{ca}", &file("ca.crt"))
            .replace("{other}", &file("other.crt"));
        let parameters = parameters.replace("{self}", &file("self.crt"));
        let parameters = parameters.replace(
            "{client}",
            &format!("sslcert={}&sslkey={}", file("client.crt"), file("client.key")),
        );
        let url = format!("postgres://{user}@{host}:{}/postgres?{parameters}", self.port);
        let (client, driver) = parse_url(&url)?.connect().await.map_err(|error| format!("{error:?}"))?;
        let mut task = JoinSet::new();
        task.spawn(driver);
        let statement = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        let row = client
            .query_one(statement, &[])
            .await
            .map_err(|error| error.to_string())?;
        Ok(row.get(0))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stop = as_postgres("pg_ctl");
        stop.args(["stop", "-m", "immediate", "-w", "-D"])
            .arg(self.file("data"));
        let _ = stop.status();
        let _ = self.server.wait();
        let data: &Path = &self.file("data");
        let mut remove = as_postgres("rm");
        let _ = remove.arg("-rf").arg(data).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_checks_what_libpq_says() {
    let cluster = Cluster::start("server");
    for (user, host, parameters, refusal) in [
        ("plain", "localhost", "", None),
        ("plain", "127.0.0.1", "sslmode=require", None),
        ("plain", "127.0.0.1", "sslmode=disable", Some("no pg_hba.conf entry")),
        ("plain", "localhost", "sslmode=verify-full&sslrootcert={ca}", None),
        (
            "plain",
            "127.0.0.1",
            "sslmode=verify-full&sslrootcert={ca}",
            Some("NotValidForName"),
        ),
        ("plain", "127.0.0.1", "sslmode=verify-ca&sslrootcert={ca}", None),
        ("plain", "127.0.0.1", "sslmode=require&sslrootcert={ca}", None),
        (
            "plain",
            "localhost",
            "sslmode=verify-ca&sslrootcert={other}",
            Some("UnknownIssuer"),
        ),
        (
            "plain",
            "localhost",
            "sslmode=require&sslrootcert={other}",
            Some("UnknownIssuer"),
        ),
        (
            "plain",
            "localhost",
            "sslmode=verify-full&sslrootcert={other}",
            Some("UnknownIssuer"),
        ),
        (
            "plain",
            "localhost",
            "sslmode=verify-full&sslrootcert=system",
            Some("UnknownIssuer"),
        ),
        (
            "tls",
            "localhost",
            "sslmode=verify-full&sslrootcert={ca}",
            Some("certificate"),
        ),
        (
            "tls",
            "localhost",
            "sslmode=verify-full&sslrootcert={ca}&{client}",
            None,
        ),
    ] {
        let answer = cluster.connect(user, host, parameters).await;
        match (refusal, &answer) {
            (None, Ok(true)) => {}
            (Some(reason), Err(error)) if error.contains(reason) => {}
            (None | Some(_), Ok(_) | Err(_)) => panic!("{user}@{host} {parameters}: {answer:?}, expected {refusal:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_server_certificate_can_be_trusted_itself() {
    let cluster = Cluster::start("self");
    assert_eq!(
        cluster
            .connect("plain", "localhost", "sslmode=verify-full&sslrootcert={self}")
            .await,
        Ok(true)
    );
    assert_eq!(
        cluster
            .connect("plain", "127.0.0.1", "sslmode=verify-ca&sslrootcert={self}")
            .await,
        Ok(true)
    );
    let name = cluster
        .connect("plain", "127.0.0.1", "sslmode=verify-full&sslrootcert={self}")
        .await
        .unwrap_err();
    assert!(name.contains("NotValidForName"), "{name}");
    let other = cluster
        .connect("plain", "localhost", "sslmode=verify-full&sslrootcert={ca}")
        .await
        .unwrap_err();
    assert!(other.contains("InvalidCertificate"), "{other}");
}

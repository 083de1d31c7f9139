//! PostgreSQL: libpq's `sslmode`s, client certificates, SCRAM with channel binding, password files, a Unix socket with `peer`.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outboxd::store::postgres::link::connect::parse_url;
use tokio::task::JoinSet;

use crate::support::certificates::Certificates;
use crate::support::daemon::Site;
use crate::support::postgres::{as_owner, bin};
use crate::support::processes::{run, spawn};
use crate::support::{eventually, ports, together};

/// User `tls` is let in by certificate only, `scram` with a password, `nobody` not at all; on the Unix socket, whoever runs the
/// tests is `peer`.
const HBA: &str = "hostssl all tls all cert\nhostssl all scram all scram-sha-256\nhost all scram all scram-sha-256\n\
                   hostssl all all all trust\nlocal all peer peer map=me\nlocal all all trust\n";

/// A cluster with TLS, stopped and removed at the end.
struct Cluster {
    files: Certificates,
    port: u16,
    server: Child,
}

/// As the user PostgreSQL accepts, and not longer than the tests.
fn as_postgres(name: &str) -> Command {
    let mut command = as_owner("INT", bin(name));
    command.current_dir("/");
    command
}

impl Cluster {
    async fn start(certificate: &str) -> Self {
        let files = Certificates::by(as_postgres("bash"));
        let data = files.file("data");
        let mut init = as_postgres("initdb");
        init.args(["--no-sync", "-A", "trust", "-U", "postgres", "-D"]);
        run(init.arg(&data));
        let ident = format!("me {} peer\n", run(Command::new("id").arg("-un")).trim());
        let mut write = as_postgres("bash");
        write.args([
            "-c",
            r#"printf "$1" >"$3"/pg_hba.conf; printf "$2" >"$3"/pg_ident.conf"#,
            "bash",
            HBA,
            &ident,
        ]);
        run(write.arg(&data));
        let port = ports::free();
        let mut server = as_postgres("postgres");
        server.arg("-D").arg(&data).arg("-k").arg(files.path());
        for setting in [
            "fsync=off".to_owned(),
            "ssl=on".to_owned(),
            format!("port={port}"),
            files.fill(&format!("ssl_cert_file={{{certificate}.crt}}")),
            files.fill(&format!("ssl_key_file={{{certificate}.key}}")),
            files.fill("ssl_ca_file={ca.crt}"),
        ] {
            server.args(["-c", &setting]);
        }
        server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let cluster = Self {
            files,
            port,
            server: spawn(server),
        };
        eventually("PostgreSQL answers", Duration::from_secs(30), || async {
            cluster.psql("select 1").then_some(())
        })
        .await;
        assert!(cluster.psql(&format!(
            "create role tls login superuser; create role peer login superuser; create role plain login;
             create role scram login superuser password '{PASSWORD}'"
        )));
        cluster
    }

    fn psql(&self, sql: &str) -> bool {
        let mut psql = as_postgres("psql");
        psql.args(["-XqAt", "-U", "postgres", "-p", &self.port.to_string(), "-h"])
            .arg(self.files.path());
        psql.args(["-c", sql, "postgres"])
            .output()
            .expect("psql")
            .status
            .success()
    }

    /// Whether the connection is encrypted, or why there is none.
    async fn connect(&self, user: &str, host: &str, parameters: &str) -> Result<bool, String> {
        let parameters = parameters.replace("{client}", "sslcert={client.crt}&sslkey={client.key}");
        let url = format!(
            "postgres://{user}@{host}:{}/postgres?{}",
            self.port,
            self.files.fill(&parameters)
        );
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
            .arg(self.files.file("data"));
        let (_stopped, _ended) = (stop.output(), self.server.wait());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_checks_what_libpq_says() {
    let cluster = Cluster::start("server").await;
    for (user, host, parameters, refusal) in [
        ("plain", "localhost", "", None),
        ("plain", "127.0.0.1", "sslmode=require", None),
        ("plain", "127.0.0.1", "sslmode=disable", Some("no pg_hba.conf entry")),
        ("plain", "localhost", "sslmode=verify-full&sslrootcert={ca.crt}", None),
        (
            "plain",
            "127.0.0.1",
            "sslmode=verify-full&sslrootcert={ca.crt}",
            Some("NotValidForName"),
        ),
        ("plain", "127.0.0.1", "sslmode=verify-ca&sslrootcert={ca.crt}", None),
        ("plain", "127.0.0.1", "sslmode=require&sslrootcert={ca.crt}", None),
        (
            "plain",
            "localhost",
            "sslmode=verify-ca&sslrootcert={other.crt}",
            Some("UnknownIssuer"),
        ),
        (
            "plain",
            "localhost",
            "sslmode=require&sslrootcert={other.crt}",
            Some("UnknownIssuer"),
        ),
        (
            "plain",
            "localhost",
            "sslmode=verify-full&sslrootcert={other.crt}",
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
            "sslmode=verify-full&sslrootcert={ca.crt}",
            Some("certificate"),
        ),
        (
            "tls",
            "localhost",
            "sslmode=verify-full&sslrootcert={ca.crt}&{client}",
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
    let cluster = Cluster::start("self").await;
    assert_eq!(
        cluster
            .connect("plain", "localhost", "sslmode=verify-full&sslrootcert={self.crt}")
            .await,
        Ok(true)
    );
    assert_eq!(
        cluster
            .connect("plain", "127.0.0.1", "sslmode=verify-ca&sslrootcert={self.crt}")
            .await,
        Ok(true)
    );
    let name = cluster
        .connect("plain", "127.0.0.1", "sslmode=verify-full&sslrootcert={self.crt}")
        .await
        .unwrap_err();
    assert!(name.contains("NotValidForName"), "{name}");
    let other = cluster
        .connect("plain", "localhost", "sslmode=verify-full&sslrootcert={ca.crt}")
        .await
        .unwrap_err();
    assert!(other.contains("InvalidCertificate"), "{other}");
}

const PASSWORD: &str = "marker-of-the-password";
const GUESS: &str = "marker-of-a-guess";

/// What comes of a way to reach the database.
enum End {
    /// The row is relayed.
    Relayed,
    /// The start ends with 64 and this.
    Refused(&'static str),
    /// The daemon waits, and its log says this: what is wrong may be the server's, and pass.
    Waits(&'static str),
}

/// URLs without their scheme, and what comes of them.
fn ways(cluster: &Cluster, expired: &Cluster) -> Vec<(String, End)> {
    let port = cluster.port;
    let socket = cluster.files.path().display().to_string();
    cluster
        .files
        .write("passfile", &format!("localhost:{port}:*:scram:{PASSWORD}\n"));
    let tls = format!("localhost:{port}/postgres?sslmode=verify-full");
    const CA: &str = "sslrootcert={ca.crt}";
    let certificate = |name: &str| format!("sslcert={{{name}.crt}}&sslkey={{{name}.key}}");
    let bound = format!("{CA}&channel_binding=require");
    vec![
        (format!("tls@{tls}&{CA}&{}", certificate("client")), End::Relayed),
        (format!("scram:{PASSWORD}@{tls}&{bound}"), End::Relayed),
        (format!("scram@{tls}&{CA}&passfile={{passfile}}"), End::Relayed),
        (
            format!("peer@{}:{port}/postgres", socket.replace('/', "%2F")),
            End::Relayed,
        ),
        (
            format!("scram:{GUESS}@{tls}&{CA}"),
            End::Refused("database.url: password authentication failed"),
        ),
        (
            format!("scram@{tls}&{CA}"),
            End::Refused("database.url: password: the server asks for one"),
        ),
        (
            format!("tls@{tls}&{CA}"),
            End::Refused("database.url: connection requires a valid client certificate"),
        ),
        (
            format!("scram@{tls}&{CA}&passfile=/nonexistent"),
            End::Refused("database.url: passfile: cannot read /nonexistent"),
        ),
        (
            format!("scram@{tls}&sslrootcert=/nonexistent"),
            End::Refused("database.url: sslrootcert: no certificates in /non"),
        ),
        (
            format!("peer@localhost:{port}/postgres?sslmode=disable"),
            End::Refused("database.url: no pg_hba.conf entry"),
        ),
        (
            format!("scram:{PASSWORD}@localhost:{port}/postgres?sslmode=disable&channel_binding=require"),
            End::Waits("database.url: channel_binding: "),
        ),
        (
            format!("scram:{PASSWORD}@{tls}&sslrootcert={{other.crt}}"),
            End::Waits("database.url: sslrootcert: "),
        ),
        (
            format!("scram:{PASSWORD}@{}&{CA}", tls.replace("localhost", "127.0.0.1")),
            End::Waits("database.url: host: "),
        ),
        (
            format!(
                "scram:{PASSWORD}@{}&{CA}",
                tls.replace(&port.to_string(), &expired.port.to_string())
            ),
            End::Waits("database.url: host: the server's certificate is out of date"),
        ),
        (
            format!("tls@{tls}&{CA}&{}", certificate("stranger")),
            End::Waits("database.url: sslcert: "),
        ),
    ]
}

impl Cluster {
    /// Runs a daemon of `site`, which was told `way`, to its `end`.
    async fn assert_ends(&self, site: &Site, way: &str, end: &End) {
        match end {
            End::Relayed => {
                // Each way logs in as who it is about, who owns the tables.
                site.succeed(&["migrate"]);
                assert!(self.psql("insert into outbox_messages (topic, payload) values ('orders', '1')"));
                let daemon = site.start().await;
                eventually("the row is relayed", Duration::from_secs(20), || async {
                    site.log().contains("\"topic\":\"orders\"").then_some(())
                })
                .await;
                assert!(daemon.terminate(Duration::from_secs(20)).await.success());
            }
            End::Refused(line) => {
                let mut daemon = site.launch();
                assert_eq!(daemon.ended(Duration::from_secs(20)).await.code(), Some(64), "{way}");
                let log = site.log();
                assert!(
                    log.lines().filter(|said| said.contains(line)).count() == 1,
                    "{way}: {log}"
                );
            }
            End::Waits(line) => {
                let daemon = site.launch();
                eventually(line, Duration::from_secs(20), || async {
                    site.log().contains(line).then_some(())
                })
                .await;
                assert!(daemon.terminate(Duration::from_secs(20)).await.success());
            }
        }
    }
}

/// As [`crate::support::access::assert_ways`], with the database at the other end: the daemon is told each URL in turn.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_takes_who_it_knows_and_is_taken_only_when_it_proves_itself() {
    let _guard = together().await;
    let (cluster, expired) = tokio::join!(Cluster::start("server"), Cluster::start("expired"));
    for (way, end) in &ways(&cluster, &expired) {
        // Each cluster has an authority of its own.
        let asks_expired = way.contains(&expired.port.to_string());
        let files = if asks_expired { &expired.files } else { &cluster.files };
        let url = files.write("url", &format!("postgres://{}\n", files.fill(way)));
        let section = format!("url_file = \"{}\"", url.display());
        let site = Site::at(&section, "[transports.out.stdout]\n");
        println!("{way}");
        cluster.assert_ends(&site, way, end).await;
        let log = site.log();
        assert!(!log.contains(PASSWORD) && !log.contains(GUESS), "{way}: {log}");
    }
}

//! One host of several, and how long to wait for a server that says nothing.

use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// `config` with one of its hosts. The driver can add hosts, not take them away.
pub(super) fn only_host(config: &Config, index: usize) -> Config {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    if hosts.len() <= 1 {
        return config.clone();
    }
    let mut one = Config::new();
    match &hosts[index] {
        Host::Tcp(name) => one.host(name),
        Host::Unix(path) => one.host_path(path),
    };
    if let Some(address) = addresses.get(index) {
        one.hostaddr(*address);
    }
    if let Some(port) = ports.get(index).or(ports.first()) {
        one.port(*port);
    }
    one.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(name) = config.get_dbname() {
        one.dbname(name);
    }
    if let Some(options) = config.get_options() {
        one.options(options);
    }
    if let Some(name) = config.get_application_name() {
        one.application_name(name);
    }
    for (value, set) in [
        (
            config.get_connect_timeout().copied(),
            Config::connect_timeout as fn(&mut Config, Duration) -> &mut Config,
        ),
        (config.get_tcp_user_timeout().copied(), Config::tcp_user_timeout),
        (config.get_keepalives_interval(), Config::keepalives_interval),
    ] {
        if let Some(value) = value {
            set(&mut one, value);
        }
    }
    if let Some(retries) = config.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one
}

/// How long one host may take to let us in, where the URL says nothing (`connect_timeout`).
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Data that is not acknowledged for so long ends the connection (`tcp_user_timeout`).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(20);
/// Silence after which the peer is asked for a sign of life (`keepalives_idle`), how often again, and how many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
/// What the driver says where the URL says nothing.
const DRIVER_KEEPALIVE_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// Time limits for peers that vanish, where the URL has none of its own.
pub(super) fn limit_waiting(config: &mut Config) {
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    let (idle, interval, retries) = KEEPALIVE;
    if config.get_keepalives_idle() == DRIVER_KEEPALIVE_IDLE {
        config.keepalives_idle(idle);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(interval);
    }
    if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(retries);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_host_keeps_everything_else() {
        let text = "host=a,b port=1,2 user=u password=p dbname=d options=-cx=y application_name=n connect_timeout=7 \
                    target_session_attrs=read-write keepalives_idle=9 sslmode=require";
        let mut both: Config = text.parse().unwrap();
        limit_waiting(&mut both);
        let mut expected: Config = text.replace("host=a,b port=1,2", "host=b port=2").parse().unwrap();
        limit_waiting(&mut expected);
        assert_eq!(only_host(&both, 1), expected);
        assert_eq!(
            expected.get_keepalives_idle(),
            Duration::from_secs(9),
            "the URL's own limits stay"
        );
        assert_eq!(expected.get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
    }
}

//! Free loopback ports.

use std::net::TcpListener;
use std::sync::Mutex;

/// A port nobody listens on now. Ports handed out once are not handed out again by this process.
pub fn free() -> u16 {
    static TAKEN: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut taken = TAKEN.lock().unwrap();
    loop {
        let port = TcpListener::bind(("127.0.0.1", 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        if !taken.contains(&port) {
            taken.push(port);
            return port;
        }
    }
}

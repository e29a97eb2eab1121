//! The program itself as a process of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

/// A sign-in check, ended with the test.
pub struct Program {
    child: Child,
    pub signin: SocketAddr,
    pub admin: SocketAddr,
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

// === impl Program ===

impl Program {
    /// Checks sign-ins against the store of this URL.
    pub fn signin(store_url: &str) -> Self {
        let (signin, admin) = (free_port(), free_port());
        let child = Command::new(env!("CARGO_BIN_EXE_oauthconsumer-operator"))
            .args(["signin", "--store-url", store_url, "--log-level", "off"])
            .args(["--signin-addr", &signin.to_string(), "--admin-addr", &admin.to_string()])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, signin, admin }
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_matches([':', '\t', ' ']).trim_end_matches(" kB").parse().unwrap()
    }

    /// The most memory that it ever had, in KiB.
    pub fn peak(&self) -> u64 {
        self.memory("VmHWM")
    }

    /// The memory that it has, in KiB.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

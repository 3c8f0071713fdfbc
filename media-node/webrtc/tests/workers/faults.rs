//! Viewers in networks that lose, forget and fail. The networks are the system's own: two namespaces with a cable between them, which
//! end with the test. They need root.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use media_webrtc::demux::Limits;
use media_webrtc::source::Layer;
use media_webrtc::transport::Event;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{STREAM, Server, Viewer, Way, frame, now, until};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// A namespace, which a process holds until its input ends.
struct Machine(Child);

impl Machine {
    fn new() -> Self {
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo there && read -r _"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare is there");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(
            line, "there\n",
            "this test makes network namespaces: it needs root, iproute2, iptables and conntrack"
        );
        Self(holder)
    }

    fn run(&self, command: &str) {
        let pid = self.0.id().to_string();
        let words = command.split_ascii_whitespace();
        let output = Command::new("nsenter").args(["-t", &pid, "-n"]).args(words).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Opens sockets there, which stay there wherever they are used.
    fn open<T: Send>(&self, open: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/proc/{}/ns/net", self.0.id())).unwrap();
        std::thread::scope(|scope| {
            let opened = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                open()
            });
            opened.join().unwrap()
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // it may be gone already
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Workers on one machine, and a viewer on another that is connected.
struct Scene {
    server: Server,
    viewer: Viewer,
    there: Machine,
    _here: Machine,
    number: u8,
}

impl Scene {
    fn new(way: Way) -> Self {
        let (here, there) = (Machine::new(), Machine::new());
        here.run(&format!("ip link add wire type veth peer name wire netns {}", there.0.id()));
        for (machine, address) in [(&here, HERE), (&there, THERE)] {
            machine.run(&format!("ip address add {address}/24 dev wire"));
            machine.run("ip link set wire up");
        }
        let server = here.open(|| Server::start_at(IpAddr::from(HERE), 2, Limits::default()));
        let mut viewer = there.open(|| Viewer::join_from(IpAddr::from(THERE), way, &server, 1));
        until("it is connected", || {
            viewer.step(server.pool.address());
            server.has_told(1, &Event::Connected)
        });
        Self { server, viewer, there, _here: here, number: 0 }
    }

    /// Pushes a group of pictures, and waits for the viewer to have all of it. The picture that follows is a keyframe.
    fn group(&mut self) {
        self.groups(1, 200);
    }

    /// Pushes groups one after the other, and waits for the viewer to have so many of their packets, of which each has 200.
    fn groups(&mut self, groups: usize, least: usize) {
        let address = self.server.pool.address();
        let mut sent: Vec<Vec<u8>> = Vec::new();
        for _ in 0..10 * groups {
            let frame = frame(self.number);
            self.number += 1;
            sent.extend(frame.packets.iter().map(|packet| packet.bytes.to_vec()));
            self.server.pool.push(STREAM, Layer::only(0), &frame);
            // a step reads one datagram, or waits for one; what is not read fills the viewer's socket
            (0..30).for_each(|_| self.viewer.step(address));
        }
        until("the picture is there", || {
            self.viewer.step(address);
            sent.iter().filter(|payload| self.viewer.payloads.contains(*payload)).count() >= least
        });
    }

    /// Pushes a keyframe again and again until the viewer has it.
    fn until_back(&mut self, number: u8) {
        let (address, frame) = (self.server.pool.address(), frame(number));
        until("the viewer is reached again", || {
            self.server.pool.push(STREAM, Layer::only(0), &frame);
            (0..50).for_each(|_| self.viewer.step(address));
            frame.packets.iter().all(|packet| self.viewer.payloads.contains(packet.bytes.as_ref()))
        });
    }

    fn has_ended(&self) -> bool {
        self.server.told.lock().unwrap().iter().any(|(_, event)| matches!(event, Event::Closed(_)))
    }
}

#[test]
fn nearly_all_of_a_stream_comes_through_a_network_that_loses_5_percent_each_way() {
    let mut scene = Scene::new(Way::Udp);
    for way in ["INPUT", "OUTPUT"] {
        scene.there.run(&format!("iptables -w -A {way} -p udp -m statistic --mode random --probability 0.05 -j DROP"));
    }
    // without being asked for again, a twentieth would be missing
    scene.groups(10, 1_960);
    assert!(!scene.has_ended());
    scene.server.pool.stop();
}

#[test]
fn a_viewer_behind_a_nat_that_forgets_is_followed() {
    let mut scene = Scene::new(Way::Udp);
    scene.group();
    for (key, ports) in [(230, "40000-40010"), (240, "41000-41010")] {
        scene.there.run("iptables -w -t nat -F");
        scene.there.run(&format!("iptables -w -t nat -A POSTROUTING -p udp -j SNAT --to-source {THERE}:{ports}"));
        scene.there.run("conntrack -F");
        // what is sent to the port before is lost, until the viewer has checked from its new one
        scene.until_back(key);
        scene.group();
    }
    assert!(!scene.has_ended());
    assert_eq!(scene.server.pool.counted().adopted, 1);
    scene.server.pool.stop();
}

#[test]
fn a_picture_is_back_after_an_outage() {
    let mut scene = Scene::new(Way::Udp);
    scene.group();
    for way in ["INPUT", "OUTPUT"] {
        scene.there.run(&format!("iptables -w -A {way} -j DROP"));
    }
    let end = now() + Duration::from_secs(8);
    while now() < end {
        scene.viewer.step(scene.server.pool.address());
    }
    scene.there.run("iptables -w -F");
    scene.until_back(240);
    scene.group();
    assert!(!scene.has_ended());
    scene.server.pool.stop();
}

#[test]
fn a_viewer_that_no_datagram_reaches_has_all_of_a_stream_over_tcp() {
    let mut scene = Scene::new(Way::Tcp);
    for way in ["INPUT", "OUTPUT"] {
        scene.there.run(&format!("iptables -w -A {way} -p udp -j DROP"));
        scene.there.run(&format!("iptables -w -A {way} -p tcp -m statistic --mode random --probability 0.02 -j DROP"));
    }
    (0..5).for_each(|_| scene.group());
    assert!(!scene.has_ended());
    scene.server.pool.stop();
}

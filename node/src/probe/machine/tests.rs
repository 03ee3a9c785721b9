//! Shares of CPU and memory, read from directories of files as the kernel writes them.

use std::fs;

use tempfile::TempDir;

use super::*;

/// The kernel's files of a machine with four cores, below a directory.
struct Files {
    root: TempDir,
}

const MEMINFO: &str = "MemTotal:       16000000 kB\nMemFree:  100 kB\nMemAvailable:   12000000 kB\nBuffers: 1 kB\n";
const V2_MOUNT: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup rw,nsdelegate\n";
const GIB: u64 = 1 << 30;

impl Files {
    /// Without any control group.
    fn bare() -> Self {
        let files = Self { root: tempfile::tempdir().unwrap() };
        files.write("proc/self/status", "Name:\tshoal\nCpus_allowed_list:\t0-127\nMems_allowed:\t1\n");
        files.write("sys/devices/system/cpu/online", "0-3\n");
        files.write("proc/meminfo", MEMINFO);
        files.machine_ticks(0, 0);
        files
    }

    /// In the group `path` of version 2.
    fn v2(path: &str) -> Self {
        let files = Self::bare();
        files.write("proc/self/cgroup", &format!("0::{path}\n"));
        files.write("proc/self/mountinfo", V2_MOUNT);
        fs::create_dir_all(files.root.path().join(format!("sys/fs/cgroup{path}"))).unwrap();
        files
    }

    /// In a container of version 1: the groups of the host, of which the mounts show the own one only.
    fn v1() -> Self {
        let files = Self::bare();
        files.write(
            "proc/self/cgroup",
            "7:memory:/docker/c1\n4:cpu,cpuacct:/docker/c1\n1:name=systemd:/docker/c1\n0::/docker/c1\n",
        );
        files.write(
            "proc/self/mountinfo",
            "40 31 0:30 /docker/c1 /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:9 - cgroup cgroup rw,cpu,cpuacct\n\
             41 31 0:32 /docker/c1 /sys/fs/cgroup/memory ro,nosuid master:10 - cgroup cgroup rw,memory\n\
             42 31 0:37 /docker/c1 /sys/fs/cgroup/systemd ro,nosuid master:11 - cgroup cgroup rw,name=systemd\n",
        );
        files.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
        files.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        files.write("sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", "0\n");
        files.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "4294967296\n");
        files.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "3221225472\n");
        files.write("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 1073741824\n");
        files
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        let path = self.root.path().join(path);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    /// What the machine did since it started: ticks in which a core worked, and in which it did not.
    fn machine_ticks(&self, busy: u64, idle: u64) {
        let (user, system) = (busy / 2, busy - busy / 2);
        let line = format!("cpu  {user} 0 {system} {idle} 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\nintr 1 2\n");
        self.write("proc/stat", &line);
    }

    fn v2_cpu(&self, group: &str, max: &str, used_us: u64) {
        self.write(&format!("sys/fs/cgroup{group}/cpu.max"), max);
        let stat = format!("usage_usec {used_us}\nuser_usec 1\nsystem_usec 2\n");
        self.write(&format!("sys/fs/cgroup{group}/cpu.stat"), &stat);
    }

    fn v2_memory(&self, group: &str, max: &str, current: u64, inactive_file: u64) {
        self.write(&format!("sys/fs/cgroup{group}/memory.max"), max);
        self.write(&format!("sys/fs/cgroup{group}/memory.current"), &format!("{current}\n"));
        let stat = format!("anon 5\nfile 6\nactive_file 7\ninactive_file {inactive_file}\n");
        self.write(&format!("sys/fs/cgroup{group}/memory.stat"), &stat);
    }

    fn machine(&self) -> Machine {
        Machine::new(self.root.path().to_owned())
    }

    /// CPU share over the second in which `work` is done.
    fn cpu_over(&self, work: impl FnOnce(&Self)) -> Result<u8, Unknown> {
        let mut machine = self.machine();
        assert_eq!(machine.look(second(1)).cpu, Err(Unknown::NotYet));
        work(self);
        machine.look(second(2)).cpu
    }

    fn memory(&self) -> Result<u8, Unknown> {
        self.machine().look(second(1)).memory
    }
}

fn second(seconds: u64) -> MonoTime {
    MonoTime::from_micros(seconds * 1_000_000)
}

#[track_caller]
fn assert_because(share: Result<u8, Unknown>, words: &[&str]) {
    match share {
        Err(Unknown::Because(reason)) => {
            assert!(words.iter().all(|word| reason.contains(word)), "{words:?} not in {reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_control_groups_everybodys_use_of_the_machine_counts() {
    let files = Files::bare();
    assert_eq!(files.cpu_over(|files| files.machine_ticks(300, 100)), Ok(75));
    assert_eq!(files.memory(), Ok(25));
    let proc_stat = "cpu  10 10 10 100 100 10 10 30 500 500\n";
    files.machine_ticks(0, 0);
    assert_eq!(files.cpu_over(|files| files.write("proc/stat", proc_stat)), Ok(29), "80 of 280; guests are in `user`");
}

#[test]
fn a_pinned_process_has_the_cores_that_it_may_use() {
    let files = Files::bare();
    files.write("proc/self/status", "Cpus_allowed_list:\t1,3,64-127\n");
    let stat =
        |user: u64, system: u64| format!("7 (a) b) 1) S 1 7 7 0 -1 0 9 9 9 9 {user} {system} 0 0 20 0 8 0 5 1\n");
    files.write("proc/self/stat", &stat(100, 0));
    // A tick is 10 ms: 0.7 s + 0.3 s in one second, on two cores.
    assert_eq!(files.cpu_over(|files| files.write("proc/self/stat", &stat(170, 30))), Ok(50));
}

#[test]
fn version_two_gives_the_share_of_the_quota_and_of_the_limit_without_cache() {
    let files = Files::v2("/shoal.slice/a");
    files.v2_cpu("/shoal.slice/a", "150000 100000\n", 7_000_000);
    files.v2_memory("/shoal.slice/a", &format!("{}\n", 4 * GIB), 3 * GIB, GIB);
    assert_eq!(files.cpu_over(|files| files.v2_cpu("/shoal.slice/a", "150000 100000\n", 7_900_000)), Ok(60));
    assert_eq!(files.memory(), Ok(50));
}

#[test]
fn of_nested_limits_the_fullest_box_counts() {
    let files = Files::v2("/pod/a");
    files.v2_cpu("/pod/a", "100000 100000\n", 0);
    files.v2_cpu("/pod", "200000 100000\n", 0);
    files.v2_memory("/pod/a", &format!("{GIB}\n"), GIB / 4, 0);
    files.v2_memory("/pod", &format!("{}\n", 2 * GIB), 3 * GIB / 2, 0);
    let work = |files: &Files| {
        files.v2_cpu("/pod/a", "100000 100000\n", 300_000);
        files.v2_cpu("/pod", "200000 100000\n", 1_800_000);
    };
    assert_eq!(files.cpu_over(work), Ok(90), "the neighbour in the pod takes 1.5 of its 2 cores");
    assert_eq!(files.memory(), Ok(75));
    // Without a limit of its own the process is in the pod's box.
    files.v2_cpu("/pod/a", "max 100000\n", 0);
    files.v2_memory("/pod/a", "max\n", GIB / 4, 0);
    files.v2_cpu("/pod", "200000 100000\n", 0);
    assert_eq!(files.cpu_over(|files| files.v2_cpu("/pod", "200000 100000\n", 500_000)), Ok(25));
    assert_eq!(files.memory(), Ok(75));
}

#[test]
fn groups_without_limits_leave_the_machine() {
    let files = Files::v2("/user.slice/a");
    files.v2_cpu("/user.slice/a", "max 100000\n", 5);
    files.v2_memory("/user.slice/a", "max\n", GIB, 0);
    assert_eq!(files.cpu_over(|files| files.machine_ticks(100, 300)), Ok(25));
    assert_eq!(files.memory(), Ok(25));
    // Limits above what the machine has.
    files.machine_ticks(0, 0);
    files.v2_cpu("/user.slice/a", "400000 100000\n", 5);
    files.v2_memory("/user.slice/a", &format!("{}\n", 16_000_000_u64 * 1024), GIB, 0);
    assert_eq!(files.cpu_over(|files| files.machine_ticks(100, 300)), Ok(25));
    assert_eq!(files.memory(), Ok(25));
}

#[test]
fn version_one_gives_the_share_of_the_quota_and_of_the_limit_without_cache() {
    let files = Files::v1();
    let work = |files: &Files| files.write("sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", "1200000000\n");
    assert_eq!(files.cpu_over(work), Ok(60));
    assert_eq!(files.memory(), Ok(50));
}

#[test]
fn version_one_without_limits_leaves_the_machine() {
    let files = Files::v1();
    files.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
    files.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_eq!(files.cpu_over(|files| files.machine_ticks(10, 90)), Ok(10));
    assert_eq!(files.memory(), Ok(25));
    // The same where it is not known how much memory the machine has.
    files.write("proc/meminfo", "MemFree: 1 kB\n");
    assert_because(files.memory(), &["meminfo has no line `MemTotal:`"]);
    files.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "4294967296\n");
    assert_eq!(files.memory(), Ok(50));
}

#[test]
fn versions_side_by_side_are_told_apart_for_each_controller() {
    // CPU by version 1, memory by version 2, as some hosts have it.
    let files = Files::v1();
    files.write("proc/self/cgroup", "4:cpu,cpuacct:/docker/c1\n0::/user.slice\n");
    let mounts = fs::read_to_string(files.root.path().join("proc/self/mountinfo")).unwrap();
    let unified = "50 31 0:41 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw\n";
    files.write("proc/self/mountinfo", &format!("{mounts}{unified}"));
    files.v2_memory("/uni fied/user.slice", &format!("{}\n", 10 * GIB), 9 * GIB, 0);
    assert_eq!(files.memory(), Ok(90));
    let work = |files: &Files| files.write("sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", "2000000000\n");
    assert_eq!(files.cpu_over(work), Ok(100));
}

#[test]
fn version_one_counts_time_in_a_hierarchy_of_its_own() {
    let files = Files::v1();
    files.write("proc/self/cgroup", "4:cpu:/docker/c1\n5:cpuacct:/docker/c1\n");
    let mounts = "40 31 0:30 /docker/c1 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu\n";
    let counting = "41 31 0:31 /docker/c1 /sys/fs/cgroup/count ro - cgroup cgroup rw,cpuacct\n";
    files.write("proc/self/mountinfo", &format!("{mounts}{counting}"));
    files.write("sys/fs/cgroup/count/cpuacct.usage", "0\n");
    assert_eq!(files.cpu_over(|files| files.write("sys/fs/cgroup/count/cpuacct.usage", "500000000\n")), Ok(25));
    files.write("proc/self/mountinfo", mounts);
    assert_because(files.machine().look(second(1)).cpu, &["cpuacct", "not mounted"]);
}

#[test]
fn values_that_make_no_sense_are_unknown_and_name_their_file() {
    let group = "/a";
    for max in ["", "garbage", "100000", "-5 100000", "0 100000", "100000 0", "1e9 100000", "100000 max"] {
        let files = Files::v2(group);
        files.v2_cpu(group, max, 0);
        assert_because(files.machine().look(second(1)).cpu, &["cpu.max"]);
        assert_eq!(files.memory(), Ok(25), "the other share is not touched");
    }
    for max in ["", "garbage", "-1", "0", "99999999999999999999999"] {
        let files = Files::v2(group);
        files.v2_memory(group, max, 5, 0);
        assert_because(files.memory(), &["memory.max"]);
    }
    let breaks: [(&str, &str, &str); 4] = [
        ("sys/fs/cgroup/a/cpu.stat", "user_usec 5\n", "cpu.stat has no line `usage_usec`"),
        ("sys/fs/cgroup/a/cpu.stat", "usage_usec many\n", "cpu.stat"),
        ("proc/self/status", "Cpus_allowed_list:\t3-1\n", "status"),
        ("sys/devices/system/cpu/online", "\u{fffd}", "online"),
    ];
    for (path, text, words) in breaks {
        let files = Files::v2(group);
        files.v2_cpu(group, "100000 100000", 0);
        files.write(path, text);
        assert_because(files.machine().look(second(1)).cpu, &[words]);
    }
    let files = Files::bare();
    for text in ["", "cpu  1 2 3\n", "cpu  a b c d e f g h\n", "cpu0 1 2 3 4 5 6 7 8\n"] {
        files.write("proc/stat", text);
        assert_because(files.machine().look(second(1)).cpu, &["proc/stat"]);
    }
    files.write("proc/meminfo", "MemTotal: 10 kB\nMemAvailable: 11 kB\n");
    assert_because(files.memory(), &["meminfo", "11 of 10"]);
    files.write("proc/meminfo", "MemTotal: 0 kB\nMemAvailable: 0 kB\n");
    assert_because(files.memory(), &["meminfo"]);
    let bytes_that_are_no_text = files.root.path().join("proc/meminfo");
    fs::write(bytes_that_are_no_text, [0xff, 0xfe]).unwrap();
    assert_because(files.memory(), &["meminfo cannot be read"]);
}

#[test]
fn files_that_disappear_make_the_share_unknown_until_they_are_back() {
    for gone in ["sys/fs/cgroup/a/cpu.stat", "sys/fs/cgroup/a", "proc/self/status", "proc/self/mountinfo"] {
        let files = Files::v2("/a");
        files.v2_cpu("/a", "100000 100000", 0);
        let mut machine = files.machine();
        if gone == "proc/self/mountinfo" {
            files.remove(gone);
        } else {
            assert_eq!(machine.look(second(1)).cpu, Err(Unknown::NotYet));
            files.remove(gone);
        }
        assert_because(machine.look(second(2)).cpu, &[]);
        let whole = Files::v2("/a");
        for path in ["proc/self/status", "proc/self/mountinfo"] {
            files.write(path, &fs::read_to_string(whole.root.path().join(path)).unwrap());
        }
        files.v2_cpu("/a", "100000 100000", 0);
        assert_eq!(machine.look(second(3)).cpu, Err(Unknown::NotYet), "{gone}: no rate over the gap");
        files.v2_cpu("/a", "100000 100000", 400_000);
        assert_eq!(machine.look(second(4)).cpu, Ok(40), "{gone}");
    }
    for gone in ["memory.current", "memory.stat"] {
        let files = Files::v2("/a");
        files.v2_memory("/a", "1000\n", 500, 0);
        files.remove(&format!("sys/fs/cgroup/a/{gone}"));
        assert_because(files.memory(), &[gone, "not there"]);
    }
}

#[test]
fn a_process_that_moves_is_followed_and_one_that_cannot_be_seen_is_unknown() {
    let files = Files::v2("/a");
    files.v2_cpu("/a", "100000 100000", 0);
    files.v2_cpu("/b", "200000 100000", 0);
    let mut machine = files.machine();
    machine.look(second(1));
    files.write("proc/self/cgroup", "0::/b\n");
    assert_eq!(machine.look(second(2)).cpu, Err(Unknown::NotYet));
    files.v2_cpu("/b", "200000 100000", 1_000_000);
    assert_eq!(machine.look(second(3)).cpu, Ok(50));
    let deep = format!("/{}", "d/".repeat(70));
    for elsewhere in ["/../c", "/a/../b", "/a (deleted)", "/c", &deep] {
        files.write("proc/self/cgroup", &format!("0::{elsewhere}\n"));
        assert_because(machine.look(second(4)).cpu, &["cannot be seen from here"]);
    }
    // A mount of another part of the hierarchy does not show this process.
    files.write("proc/self/cgroup", "0::/a\n");
    files.write("proc/self/mountinfo", "31 23 0:28 /elsewhere /sys/fs/cgroup rw - cgroup2 cgroup rw\n");
    let mut machine = files.machine();
    assert_because(machine.look(second(5)).cpu, &["the cgroup /a"]);
    // One that was mounted since does.
    files.write("proc/self/mountinfo", V2_MOUNT);
    assert_eq!(machine.look(second(6)).cpu, Err(Unknown::NotYet));
}

#[test]
fn lines_of_mounts_that_are_garbage_are_passed_over() {
    let files = Files::v2("/a");
    files.v2_memory("/a", &format!("{GIB}\n"), GIB / 2, 0);
    let garbage = "\n-\n - cgroup2\n1 2 3 - cgroup2\n1 2 3 / - cgroup cgroup\n1 2 3 / /x\\9 o - cgroup2 a b\n1 2 3 / /x\\é - cgroup2 a b\n";
    files.write("proc/self/mountinfo", &format!("{garbage}{V2_MOUNT}"));
    files.write("proc/self/cgroup", "garbage\n::\n0:\n0::/a\n");
    assert_eq!(files.memory(), Ok(50));
}

#[test]
fn a_rate_is_over_the_last_second_and_starts_anew_when_a_counter_goes_back() {
    let files = Files::v2("/a");
    let mut machine = files.machine();
    let mut look = |at_ms: u64, used_ms: u64| {
        files.v2_cpu("/a", "100000 100000", used_ms * 1000);
        machine.look(MonoTime::from_micros(at_ms * 1000)).cpu
    };
    assert_eq!(look(0, 0), Err(Unknown::NotYet));
    assert_eq!(look(50, 50), Err(Unknown::NotYet), "too short for a rate");
    assert_eq!(look(200, 100), Ok(50));
    assert_eq!(look(1000, 100), Ok(10));
    for (at_ms, used_ms) in [(1200, 100), (1400, 100), (1600, 100), (1800, 100)] {
        assert!(look(at_ms, used_ms).is_ok());
    }
    assert_eq!(look(2000, 100), Ok(0), "the work of the first second is forgotten");
    assert_eq!(look(2200, 900), Ok(80), "0.8 s of the last one");
    assert_because(look(2400, 0), &["went back"]);
    assert_eq!(look(2600, 100), Ok(50));
    assert_eq!(look(3600, 9999), Ok(100), "a burst above the quota is no more than all of it");
}

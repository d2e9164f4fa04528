// SPDX-License-Identifier: Apache-2.0
// PID 1 of a guest that is saved and restored while it works: it writes and reads a disk, echoes
// and is echoed over vsock, and lets timers fire on all vCPUs. Each connection that ends is opened
// again; nothing else may go wrong.
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

#include "tests/vmm/restore_load/protocol.h"
#include "vmm/base/unique_fd.h"

namespace hearth::vmm::testing {
namespace {

constexpr long kReportIntervalNs = 50'000'000;
constexpr long kTickNs = 20'000'000;
constexpr long kCpuPauseNs = 3'000'000;
constexpr long kRetryNs = 10'000'000;
constexpr time_t kConnectSeconds = 10;

std::atomic<uint64_t> ticks{0}, longest_tick_ns{0}, verified{0}, echoed{0}, resets{0}, failures{0};
std::atomic<bool> stopping{false};
std::array<std::atomic<uint64_t>, kLoadCpus> cpu_rounds;
std::array<std::atomic<uint64_t>, kLoadWriters> written;

void Fail(const char* what) {
  std::printf("restore-load: failure: %s (errno %d: %s)\n", what, errno, std::strerror(errno));
  failures.fetch_add(1);
}

void Pause(long ns) {
  const timespec time{0, ns};
  nanosleep(&time, nullptr);
}

uint64_t NowNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// After a transfer failed: a reset is what a restore brings; a stream may also have been closed by
// the host.
void NoteEnd(ssize_t result) {
  if (result == 0) return;
  if (errno == ECONNRESET || errno == EPIPE || errno == ENOTCONN) {
    resets.fetch_add(1);
  } else {
    Fail("a stream ended in another way than by a reset");
  }
}

bool SendAll(int fd, const void* data, size_t bytes) {
  const auto* from = static_cast<const uint8_t*>(data);
  while (bytes != 0) {
    const ssize_t sent = send(fd, from, bytes, MSG_NOSIGNAL);
    if (sent <= 0) {
      NoteEnd(sent);
      return false;
    }
    from += sent;
    bytes -= static_cast<size_t>(sent);
  }
  return true;
}

UniqueFd Connect(uint32_t port) {
  while (true) {
    UniqueFd fd(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_vm address{};
    address.svm_family = AF_VSOCK;
    address.svm_cid = VMADDR_CID_HOST;
    address.svm_port = port;
    // By itself Linux waits two seconds, and a connection that it gives up looks to the host like
    // one that the snapshot has broken.
    const timeval patience{kConnectSeconds, 0};
    if (setsockopt(fd.get(), AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &patience,
                   sizeof(patience)) != 0) {
      Fail("the time to connect in");
    }
    if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
      return fd;
    }
    // Cut off by the snapshot, before or after the host had heard of it.
    if (errno != ECONNRESET && errno != ETIMEDOUT) Fail("connect");
    Pause(kRetryNs);
  }
}

// Sends chunks that the host returns, and looks whether they are the same.
void EchoByHost() {
  std::vector<uint8_t> chunk(kLoadChunkBytes);
  std::vector<uint8_t> back(kLoadChunkBytes);
  while (true) {
    const UniqueFd fd = Connect(kLoadEchoPort);
    uint64_t offset = 0;
    while (true) {
      for (size_t i = 0; i < chunk.size(); ++i) chunk[i] = LoadByte(offset + i);
      if (!SendAll(fd.get(), chunk.data(), chunk.size())) break;
      const ssize_t got = recv(fd.get(), back.data(), back.size(), MSG_WAITALL);
      if (got != static_cast<ssize_t>(back.size())) {
        if (got <= 0) NoteEnd(got);
        break;
      }
      if (back != chunk) Fail("an echo differs from what was sent");
      offset += chunk.size();
      echoed.fetch_add(chunk.size());
    }
  }
}

void EchoToHost(UniqueFd fd) {
  std::vector<uint8_t> chunk(kLoadChunkBytes);
  while (true) {
    const ssize_t got = recv(fd.get(), chunk.data(), chunk.size(), 0);
    if (got <= 0) {
      NoteEnd(got);
      return;
    }
    if (!SendAll(fd.get(), chunk.data(), static_cast<size_t>(got))) return;
  }
}

UniqueFd Listen() {
  UniqueFd listener(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = VMADDR_CID_ANY;
  address.svm_port = kLoadGuestPort;
  if (bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(listener.get(), 16) != 0) {
    Fail("listen");
  }
  return listener;
}

void Accept(const UniqueFd& listener) {
  while (true) {
    UniqueFd fd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd) {
      if (errno != ECONNRESET && errno != ECONNABORTED) Fail("accept");
      continue;
    }
    std::thread(EchoToHost, std::move(fd)).detach();
  }
}

off_t SlotOffset(uint64_t writer, uint64_t sequence) {
  return static_cast<off_t>((writer * kLoadSlots + sequence % kLoadSlots) * kLoadBlockBytes);
}

// Reads back what write `sequence` left, past the page cache.
void VerifyBlock(int disk, uint64_t writer, uint64_t sequence) {
  alignas(kLoadBlockBytes) LoadBlock block;
  if (pread(disk, &block, sizeof(block), SlotOffset(writer, sequence)) != sizeof(block)) {
    Fail("reading a block");
  } else if (block.writer != writer || block.sequence != sequence || !block.IsWhole()) {
    Fail("a block is not as it was written");
  } else {
    verified.fetch_add(1);
  }
}

void WriteBlocks(uint64_t writer) {
  const UniqueFd disk(open("/dev/vda", O_RDWR | O_DIRECT | O_CLOEXEC));
  if (!disk) return Fail("/dev/vda");
  alignas(kLoadBlockBytes) LoadBlock block;
  uint64_t sequence = 1;
  for (; !stopping.load(); ++sequence) {
    block = LoadBlock::Make(writer, sequence);
    if (pwrite(disk.get(), &block, sizeof(block), SlotOffset(writer, sequence)) != sizeof(block)) {
      Fail("writing a block");
    }
    if (fdatasync(disk.get()) != 0) Fail("fdatasync");
    written[writer].store(sequence);
    // One of those before, further back each time.
    const uint64_t back = 1 + sequence * 7 % (kLoadSlots - 1);
    if (sequence > back) VerifyBlock(disk.get(), writer, sequence - back);
  }
  const uint64_t last = sequence - 1;
  for (uint64_t back = 0; back < std::min(kLoadSlots, last); ++back) {
    VerifyBlock(disk.get(), writer, last - back);
  }
}

void Tick() {
  const UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
  const itimerspec spec{{0, kTickNs}, {0, kTickNs}};
  timerfd_settime(timer.get(), 0, &spec, nullptr);
  uint64_t last_ns = NowNs();
  while (true) {
    uint64_t expirations = 0;
    if (read(timer.get(), &expirations, sizeof(expirations)) != sizeof(expirations)) {
      Fail("timerfd");
    }
    const uint64_t now_ns = NowNs();
    if (now_ns < last_ns) Fail("monotonic time went back");
    longest_tick_ns.store(std::max(longest_tick_ns.load(), now_ns - last_ns));
    last_ns = now_ns;
    ticks.fetch_add(expirations);
  }
}

void UseCpu(uint32_t cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set) != 0) Fail("sched_setaffinity: is the vCPU there?");
  while (true) {
    for (int i = 0; i < 100; ++i) cpu_rounds[cpu].fetch_add(1);
    if (sched_getcpu() != static_cast<int>(cpu)) Fail("a thread left its vCPU");
    Pause(kCpuPauseNs);
  }
}

LoadReport MakeReport() {
  LoadReport report;
  report.monotonic_ns = NowNs();
  report.timer_ticks = ticks.load();
  for (size_t i = 0; i < kLoadCpus; ++i) report.cpu_rounds[i] = cpu_rounds[i].load();
  for (size_t i = 0; i < kLoadWriters; ++i) report.written[i] = written[i].load();
  report.verified_blocks = verified.load();
  report.echoed_bytes = echoed.load();
  report.resets = resets.load();
  report.longest_tick_ns = longest_tick_ns.load();
  report.failures = failures.load();
  return report;
}

// Until the host says by a byte that it is enough.
void Report(std::vector<std::thread>& writers) {
  while (true) {
    const UniqueFd fd = Connect(kLoadReportPort);
    while (true) {
      LoadReport report = MakeReport();
      char byte;
      if (recv(fd.get(), &byte, 1, MSG_DONTWAIT) == 1) {
        stopping.store(true);
        for (std::thread& writer : writers) writer.join();
        report = MakeReport();
        report.finished = 1;
        SendAll(fd.get(), &report, sizeof(report));
        shutdown(fd.get(), SHUT_WR);
        while (recv(fd.get(), &byte, 1, 0) > 0) {  // Until the host has read it.
        }
        return;
      }
      if (!SendAll(fd.get(), &report, sizeof(report))) break;
      Pause(kReportIntervalNs);
    }
  }
}

void Run() {
  mkdir("/dev", 0755);
  if (mount("dev", "/dev", "devtmpfs", 0, nullptr) != 0) Fail("mount /dev");
  const int console = open("/dev/console", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) dup2(console, fd);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::printf("restore-load: up\n");
  std::vector<std::thread> writers;
  for (uint64_t i = 0; i < kLoadWriters; ++i) writers.emplace_back(WriteBlocks, i);
  std::thread(Accept, Listen()).detach();  // The host connects once there are reports.
  std::thread(Tick).detach();
  for (uint32_t i = 0; i < kLoadCpus; ++i) std::thread(UseCpu, i).detach();
  for (uint32_t i = 0; i < kLoadEchoStreams; ++i) std::thread(EchoByHost).detach();
  Report(writers);
}

}  // namespace
}  // namespace hearth::vmm::testing

int main() {
  hearth::vmm::testing::Run();
  reboot(RB_AUTOBOOT);
  return 1;
}

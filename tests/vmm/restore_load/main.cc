// SPDX-License-Identifier: Apache-2.0
// hearth-restore-load: saves and restores a guest under load, each time into a new VMM process, and
// looks whether anything got lost. tests/vmm/restore-under-load runs it in the testbed.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <memory>

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"
#include "tests/vmm/restore_load/session.h"
#include "vmm/base/token_bucket.h"

namespace hearth::vmm::testing {
namespace {

constexpr char kUsage[] =
    "usage: hearth-restore-load --vmm=PATH --kernel=VMLINUX --initrd=FILE [--rounds=N]\n"
    "Exits with 0 when the guest made progress after each of the restores and lost nothing.\n";
constexpr uint32_t kMemoryMib = 96;
constexpr uint32_t kGuestCid = 3;
constexpr int kPatienceMs = 180'000;
// Each third round the copy is saved once more after so long, times the round's number, up to a
// limit: while it has not yet heard of the transport reset, has just heard of it, or is connecting.
constexpr uint32_t kHastyRounds = 3;
constexpr uint32_t kHastyStepMs = 2;
constexpr uint32_t kHastyLimitMs = 60;
constexpr char kCommandLine[] = "console=ttyS0 quiet reboot=k panic=-1";
// Those that wait in recv when it comes: the host's streams in the guest, and the reports'.
constexpr uint64_t kLeastResets = kLoadEchoStreams + 1;

struct Arguments {
  std::string vmm, kernel, initrd;
  uint32_t rounds = 10;
};

bool Parse(int argc, char** argv, Arguments& to) {
  for (int i = 1; i < argc; ++i) {
    absl::string_view text = argv[i];
    if (absl::ConsumePrefix(&text, "--vmm=")) {
      to.vmm = std::string(text);
    } else if (absl::ConsumePrefix(&text, "--kernel=")) {
      to.kernel = std::string(text);
    } else if (absl::ConsumePrefix(&text, "--initrd=")) {
      to.initrd = std::string(text);
    } else if (!absl::ConsumePrefix(&text, "--rounds=") || !absl::SimpleAtoi(text, &to.rounds)) {
      return false;
    }
  }
  return !to.vmm.empty() && !to.kernel.empty() && !to.initrd.empty();
}

absl::StatusOr<UniqueFd> MakeMemfd(const char* name) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) return ErrnoStatus(name);
  return fd;
}

struct Snapshot {
  UniqueFd state;
  UniqueFd memory;
};

class Load {
 public:
  explicit Load(const Arguments& arguments) : arguments_(arguments) {}
  absl::Status Run();

 private:
  absl::Status Boot();
  absl::StatusOr<Snapshot> Save();
  absl::Status Restore(const Snapshot& snapshot);
  absl::Status SaveHastily(uint32_t round);
  // That all which the guest's last report calls written is on the disk, whole.
  absl::Status CheckDisk() const;
  void SetVsock(v1::Vsock& vsock) const;

  const Arguments& arguments_;
  UniqueFd disk_;
  std::unique_ptr<LoadSession> session_;
};

void Load::SetVsock(v1::Vsock& vsock) const {
  vsock.set_guest_cid(kGuestCid);
  vsock.add_guest_ports(kLoadEchoPort);
  vsock.add_guest_ports(kLoadReportPort);
}

absl::Status Load::Boot() {
  ASSIGN_OR_RETURN(disk_, MakeMemfd("disk"));
  if (ftruncate(disk_.get(), kLoadDiskBytes) != 0) return ErrnoStatus("the disk");
  ASSIGN_OR_RETURN(VmmProcess vmm, VmmProcess::Spawn(arguments_.vmm));
  v1::Request request = BasicCreateRequest(kMemoryMib);
  v1::CreateMachine& create = *request.mutable_create();
  create.set_vcpu_count(kLoadCpus);
  create.set_command_line(kCommandLine);
  create.set_entropy(true);
  create.set_has_initrd(true);
  create.set_initrd_fd(2);
  create.add_disks()->set_fd(3);
  SetVsock(*create.mutable_vsock());
  std::vector<UniqueFd> fds;
  fds.emplace_back(open(arguments_.kernel.c_str(), O_RDONLY | O_CLOEXEC));
  fds.emplace_back(dup(STDOUT_FILENO));
  fds.emplace_back(open(arguments_.initrd.c_str(), O_RDONLY | O_CLOEXEC));
  fds.emplace_back(dup(disk_.get()));
  RETURN_IF_ERROR(vmm.Call(std::move(request), std::move(fds)).status());
  v1::Request start;
  start.mutable_start();
  RETURN_IF_ERROR(vmm.Call(std::move(start)).status());
  session_ = std::make_unique<LoadSession>(std::move(vmm));
  return absl::OkStatus();
}

absl::StatusOr<Snapshot> Load::Save() {
  v1::Request pause;
  pause.mutable_pause();
  RETURN_IF_ERROR(session_->vmm().Call(std::move(pause)).status());
  Snapshot snapshot;
  ASSIGN_OR_RETURN(snapshot.state, MakeMemfd("state"));
  ASSIGN_OR_RETURN(snapshot.memory, MakeMemfd("memory"));
  v1::Request save;
  save.mutable_save()->set_state_fd(0);
  save.mutable_save()->set_memory_fd(1);
  std::vector<UniqueFd> fds;
  fds.emplace_back(dup(snapshot.state.get()));
  fds.emplace_back(dup(snapshot.memory.get()));
  RETURN_IF_ERROR(session_->vmm().Call(std::move(save), std::move(fds)).status());
  return snapshot;
}

absl::Status Load::Restore(const Snapshot& snapshot) {
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
  if (fcntl(snapshot.memory.get(), F_ADD_SEALS, kSeals) != 0) return ErrnoStatus("F_ADD_SEALS");
  ASSIGN_OR_RETURN(VmmProcess vmm, VmmProcess::Spawn(arguments_.vmm));
  v1::Request request;
  v1::RestoreMachine& restore = *request.mutable_restore();
  restore.set_state_fd(0);
  restore.set_memory_fd(1);
  restore.add_disks()->set_fd(2);
  restore.mutable_console()->set_fd(3);
  SetVsock(*restore.mutable_vsock());
  restore.set_resume(true);
  std::vector<UniqueFd> fds;
  for (const int fd : {snapshot.state.get(), snapshot.memory.get(), disk_.get(), STDOUT_FILENO}) {
    fds.emplace_back(dup(fd));
  }
  RETURN_IF_ERROR(vmm.Call(std::move(request), std::move(fds)).status());
  session_ = std::make_unique<LoadSession>(std::move(vmm));
  return absl::OkStatus();
}

absl::Status Load::SaveHastily(uint32_t round) {
  const uint32_t delay_ms = round * kHastyStepMs % kHastyLimitMs;
  RETURN_IF_ERROR(session_->Serve(static_cast<int>(delay_ms)));
  ASSIGN_OR_RETURN(const Snapshot snapshot, Save());
  session_.reset();
  return Restore(snapshot);
}

absl::Status Load::CheckDisk() const {
  for (uint64_t writer = 0; writer < kLoadWriters; ++writer) {
    const uint64_t last = session_->report().written[writer];
    const uint64_t oldest = last > kLoadSlots ? last - kLoadSlots + 1 : 1;
    for (uint64_t sequence = oldest; sequence <= last; ++sequence) {
      LoadBlock block;
      const uint64_t offset = (writer * kLoadSlots + sequence % kLoadSlots) * kLoadBlockBytes;
      if (pread(disk_.get(), &block, sizeof(block), static_cast<off_t>(offset)) != sizeof(block)) {
        return ErrnoStatus("reading the disk");
      }
      // A later write may have followed since the report.
      if (block.writer != writer || block.sequence < sequence || !block.IsWhole()) {
        return absl::DataLossError(absl::StrCat("write ", sequence, " of writer ", writer,
                                                " is not on the disk, but write ", block.sequence));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Load::Run() {
  RETURN_IF_ERROR(Boot());
  RETURN_IF_ERROR(Annotate(session_->AwaitGuest(kPatienceMs), "boot"));
  RETURN_IF_ERROR(session_->Connect());
  RETURN_IF_ERROR(Annotate(session_->AwaitProgress(kPatienceMs), "before the first save"));
  for (uint32_t round = 1; round <= arguments_.rounds; ++round) {
    const std::string where = absl::StrCat("round ", round);
    const LoadReport before = session_->report();
    const uint64_t begin_ns = MonotonicNs();
    auto snapshot = Save();
    if (!snapshot.ok()) return Annotate(snapshot.status(), absl::StrCat(where, ", save"));
    RETURN_IF_ERROR(Annotate(CheckDisk(), where));
    const uint64_t saved_ns = MonotonicNs();
    session_.reset();  // From here on the disk is the copy's.
    RETURN_IF_ERROR(Annotate(Restore(*snapshot), absl::StrCat(where, ", restore")));
    const uint64_t restored_ns = MonotonicNs();
    if (round % kHastyRounds == 0) {
      RETURN_IF_ERROR(Annotate(SaveHastily(round), absl::StrCat(where, ", saved in haste")));
    }
    RETURN_IF_ERROR(Annotate(session_->Connect(), where));
    RETURN_IF_ERROR(Annotate(session_->AwaitProgress(kPatienceMs), where));
    const LoadReport& after = session_->report();
    if (after.resets < before.resets + kLeastResets) {
      return absl::AbortedError(
          absl::StrCat(where, ": the guest saw ", after.resets - before.resets, " resets"));
    }
    std::fprintf(stderr,
                 "round %u: saved in %.0f ms, restored in %.0f ms, all tasks went on after %.0f "
                 "ms; %llu resets, longest tick %.0f ms\n",
                 round, static_cast<double>(saved_ns - begin_ns) / 1e6,
                 static_cast<double>(restored_ns - saved_ns) / 1e6,
                 static_cast<double>(MonotonicNs() - restored_ns) / 1e6,
                 static_cast<unsigned long long>(after.resets - before.resets),
                 static_cast<double>(after.longest_tick_ns) / 1e6);
  }
  RETURN_IF_ERROR(Annotate(session_->Finish(kPatienceMs), "at the end"));
  return CheckDisk();
}

}  // namespace
}  // namespace hearth::vmm::testing

int main(int argc, char** argv) {
  hearth::vmm::testing::Arguments arguments;
  if (!hearth::vmm::testing::Parse(argc, argv, arguments)) {
    std::fputs(hearth::vmm::testing::kUsage, stderr);
    return 2;
  }
  const absl::Status status = hearth::vmm::testing::Load(arguments).Run();
  if (!status.ok()) {
    std::fprintf(stderr, "hearth-restore-load: %s\n", std::string(status.message()).c_str());
    return 1;
  }
  std::fprintf(stderr, "hearth-restore-load: %u rounds, nothing lost\n", arguments.rounds);
  return 0;
}

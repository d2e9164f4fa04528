// SPDX-License-Identifier: Apache-2.0
// hearth-vmm restoring machines whose memory a pager serves, page by page.
#include <sys/wait.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "absl/synchronization/notification.h"
#include "tests/vmm/kvm_guard.h"
#include "vmm/jail/jail.h"
#include "vmm/testing/busy_guest.h"
#include "vmm/testing/pager_fake.h"
#include "vmm/testing/poke_guest.h"
#include "vmm/testing/snapshot_calls.h"
#include "vmm/testing/tiny_guest.h"
#include "vmm/testing/vmm_process.h"

// First line of a test that needs KVM and a userfaultfd which serves its faults.
#define REQUIRE_PAGING()                                                     \
  do {                                                                       \
    const std::string name = Catch::getResultCapture().getCurrentTestName(); \
    if (!HaveKvm(name.c_str()) || !HaveUserfaultfd(name.c_str())) return;    \
  } while (false)

namespace hearth::vmm::testing {
namespace {

constexpr int kPatienceMs = 60'000;

VmmProcess Spawn(int log = -1) {
  auto process = VmmProcess::Spawn(HEARTH_VMM_BINARY, log);
  INFO(process.status().message());
  REQUIRE(process.ok());
  return *std::move(process);
}

v1::Response Call(VmmProcess& process, v1::Request request, std::vector<UniqueFd> fds = {}) {
  const auto response = process.Call(std::move(request), std::move(fds));
  INFO(response.status().message());
  REQUIRE(response.ok());
  return *response;
}
v1::Request Start() {
  v1::Request request;
  request.mutable_start();
  return request;
}
v1::Request Pause() {
  v1::Request request;
  request.mutable_pause();
  return request;
}
v1::Request ForcedStop() {
  v1::Request request;
  request.mutable_stop()->set_forced(true);
  return request;
}
uint64_t GuestErrors(VmmProcess& process) {
  v1::Request request;
  request.mutable_get_statistics();
  return Call(process, request).statistics().guest_errors();
}

// A machine that was booted with `kernel`, ran until it wrote to a port without a device, and was
// saved.
SavedMachineFiles SaveRunning(const std::string& kernel, uint32_t vcpus = 1) {
  VmmProcess original = Spawn();
  v1::Request create = BasicCreateRequest(4);
  create.mutable_create()->set_vcpu_count(vcpus);
  create.mutable_create()->set_entropy(true);
  std::vector<UniqueFd> fds;
  fds.push_back(MemoryFile(kernel));
  fds.push_back(UniqueFd(open("/dev/null", O_WRONLY | O_CLOEXEC)));
  Call(original, create, std::move(fds));
  Call(original, Start());
  while (GuestErrors(original) == 0) {
  }
  Call(original, Pause());
  auto saved = SaveMachine(original);
  REQUIRE(saved.ok());
  return *std::move(saved);
}

// A RestoreMachine that takes its memory from `pager`.
PreparedRequest PagedRestore(const SavedMachineFiles& files, PagerFake& pager) {
  PreparedRequest restore;
  v1::RestoreMachine& body = *restore.request.mutable_restore();
  body.set_state_fd(restore.Add(UniqueFd(dup(files.state.get()))));
  body.mutable_pager()->set_socket_fd(restore.Add(pager.TakeVmmEnd()));
  body.mutable_pager()->set_userfaultfd_device_fd(restore.Add(OpenUserfaultfdDevice()));
  body.set_resume(true);
  return restore;
}

PagerFake::GetPage From(const SavedMachineFiles& files) {
  return [fd = files.memory.get()](uint64_t offset, uint8_t* page) {
    return pread(fd, page, 4096, static_cast<off_t>(offset)) == 4096;
  };
}

TEST_CASE("paged restore: a busy guest goes on where it was, and can be saved whole") {
  REQUIRE_PAGING();
  SavedMachineFiles saved = SaveRunning(KernelOf(BusyCode()), 2);
  for (int generation = 0; generation < 3; ++generation) {
    PagerFake pager(From(saved));
    pager.ServeOffer();
    VmmProcess copy = Spawn();
    PreparedRequest restore = PagedRestore(saved, pager);
    Call(copy, std::move(restore.request), std::move(restore.fds));
    while (GuestErrors(copy) < 10) {
    }
    const uint64_t touched = pager.pages_served();
    CHECK(touched > 0);
    CHECK(touched < 100);
    const auto set = FetchWorkingSet(copy);
    REQUIRE(set.ok());
    CHECK(set->runs_size() > 0);
    Call(copy, Pause());
    auto again = SaveMachine(copy);
    REQUIRE(again.ok());
    CHECK(pager.pages_served() == 1024);
    CHECK(again->sizes.data_pages() >= saved.sizes.data_pages());
    saved = *std::move(again);
    Call(copy, ForcedStop());
    REQUIRE(copy.AwaitExited(kPatienceMs).ok());
    REQUIRE(copy.Wait(kPatienceMs).ok());
  }
}

TEST_CASE("paged restore: the thread that watches the pager is in a filter too") {
  REQUIRE_PAGING();
  if (!JailAvailable()) return;
  const SavedMachineFiles saved = SaveRunning(KernelOf(CountingCode()));
  PagerFake pager(From(saved));
  pager.ServeOffer();
  VmmProcess copy = Spawn();
  PreparedRequest restore = PagedRestore(saved, pager);
  // Paused: KVM adds a thread of its own to a process whose guest has run.
  restore.request.mutable_restore()->set_resume(false);
  Call(copy, std::move(restore.request), std::move(restore.fds));
  size_t threads = 0;
  for (const auto& task :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", copy.pid(), "/task"))) {
    std::ifstream file(task.path() / "status");
    const std::string status{std::istreambuf_iterator<char>(file), {}};
    CHECK_THAT(status, Catch::Contains("Seccomp:\t2"));
    ++threads;
  }
  CHECK(threads == 3);
}

// Reads pages that hold kMark, one after the other, as often as it has to.
constexpr uint32_t kMark = 0x600dda7a;
constexpr uint32_t kMarkedPages = 64;
std::string MarkReaderKernel() {
  PokeScript script;
  script.Fill(PokeScript::kFreeAddress, kMark, kMarkedPages * 1024);
  script.Out8(0x80, 0);  // Tells the test that they are filled.
  // Until the test lets it go on: the pager gives a 1 here.
  script.Wait16(PokeScript::kFreeAddress + kMarkedPages * 4096, 1, 0);
  for (uint32_t page = 0; page < kMarkedPages; ++page) {
    script.Read32(PokeScript::kFreeAddress + page * 4096);
  }
  return script.Kernel();
}

std::string ReadAllOf(int fd) {
  std::string text;
  char buffer[4096];
  ssize_t count;
  while ((count = read(fd, buffer, sizeof(buffer))) > 0) {
    text.append(buffer, static_cast<size_t>(count));
  }
  return text;
}

TEST_CASE("paged restore: when the pager dies the machine ends, and its guest has seen no zeros") {
  REQUIRE_PAGING();
  const SavedMachineFiles saved = SaveRunning(MarkReaderKernel());
  constexpr uint64_t kGo = PokeScript::kFreeAddress + kMarkedPages * 4096;
  constexpr uint64_t kLast = PokeScript::kFreeAddress + 20 * 4096;
  // While a page is waited for; and not at all, which shows that the guest reads them all.
  for (const uint64_t dies_at : {kLast, UINT64_MAX}) {
    INFO("dies at " << dies_at);
    PagerFake pager([&, give = From(saved)](uint64_t offset, uint8_t* page) {
      if (offset == dies_at) return false;
      if (!give(offset, page)) return false;
      if (offset == kGo) page[0] = 1;
      return true;
    });
    pager.ServeOffer();
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    const UniqueFd console(ends[0]);
    VmmProcess copy = Spawn();
    PreparedRequest restore = PagedRestore(saved, pager);
    restore.request.mutable_restore()->mutable_console()->set_fd(restore.Add(UniqueFd(ends[1])));
    Call(copy, std::move(restore.request), std::move(restore.fds));
    const auto exited = copy.AwaitExited(kPatienceMs);
    INFO(exited.status().message());
    REQUIRE(exited.ok());
    REQUIRE(copy.Wait(kPatienceMs).ok());
    const std::string seen = ReadAllOf(console.get());
    REQUIRE(seen.size() % 4 == 0);
    for (size_t at = 4; at < seen.size(); at += 4) {
      uint32_t word;
      std::memcpy(&word, seen.data() + at, sizeof(word));
      CHECK(word == kMark);
    }
    if (dies_at == UINT64_MAX) {
      CHECK(exited->reason() == v1::Exited::REASON_GUEST_RESET);
      CHECK(seen.size() == 4 * (1 + kMarkedPages));
    } else {
      CHECK(exited->reason() == v1::Exited::REASON_HOST_ERROR);
      CHECK(exited->detail() == "the pager that served the machine's memory has gone");
      CHECK(seen.size() == 4 * (1 + 20));
    }
  }
}

// A guest with a request for the entropy device in a queue; tells the device of it when the word at
// kGoPage is 1.
constexpr uint32_t kRing = PokeScript::kFreeAddress;
constexpr uint32_t kGoPage = kRing + 0x8000;
std::string EntropyKernel() {
  constexpr uint32_t kDevice = 0xd0000000;
  PokeScript script;
  // VIRTIO 1.2, 4.2.2: FEATURES_OK with VERSION_1, the queue, DRIVER_OK.
  script.Write32(kDevice + 0x70, 1).Write32(kDevice + 0x70, 3);
  script.Write32(kDevice + 0x24, 1).Write32(kDevice + 0x20, 1);
  script.Write32(kDevice + 0x70, 11).Write32(kDevice + 0x30, 0).Write32(kDevice + 0x38, 8);
  script.Write32(kDevice + 0x80, kRing).Write32(kDevice + 0x90, kRing + 0x1000);
  script.Write32(kDevice + 0xa0, kRing + 0x2000).Write32(kDevice + 0x44, 1);
  script.Write32(kDevice + 0x70, 15);
  // One descriptor, written to by the device: 64 bytes.
  script.Write32(kRing, kRing + 0x3000).Write32(kRing + 8, 64).Write16(kRing + 12, 2);
  script.Write16(kRing + 0x1002, 1);
  script.Out8(0x80, 0);
  script.Wait16(kGoPage, 1, 0);
  script.Write32(kDevice + 0x50, 0);
  script.Wait16(kRing + 0x2002, 1, 0);
  return script.Kernel();
}

TEST_CASE("paged restore: devices too wait for the pager; when it dies then, the process says so") {
  REQUIRE_PAGING();
  const SavedMachineFiles saved = SaveRunning(EntropyKernel());
  for (const bool dies : {false, true}) {
    PagerFake pager([&, give = From(saved)](uint64_t offset, uint8_t* page) {
      if (dies && offset >= kRing && offset < kRing + 0x3000) return false;
      if (!give(offset, page)) return false;
      if (offset == kGoPage) page[0] = 1;
      return true;
    });
    pager.ServeOffer();
    int ends[2];
    REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
    const UniqueFd log(ends[0]);
    UniqueFd log_writer(ends[1]);
    VmmProcess copy = Spawn(log_writer.get());
    log_writer.reset();
    PreparedRequest restore = PagedRestore(saved, pager);
    // A device may look at its queue while it is restored, so this may fail with the process.
    const auto restored = copy.Call(std::move(restore.request), std::move(restore.fds));
    CHECK((restored.ok() || dies));
    if (!dies) {
      const auto exited = copy.AwaitExited(kPatienceMs);
      REQUIRE(exited.ok());
      CHECK(exited->reason() == v1::Exited::REASON_GUEST_RESET);
    }
    const auto status = copy.Wait(kPatienceMs);
    REQUIRE(status.ok());
    CHECK(WIFEXITED(*status));
    CHECK(WEXITSTATUS(*status) == (dies ? 1 : 0));
    if (dies) CHECK_THAT(ReadAllOf(log.get()), Catch::Contains("served its pages had gone"));
  }
}

TEST_CASE(
    "paged restore: a running guest that needs no more pages ends with its pager all the same") {
  REQUIRE_PAGING();
  const SavedMachineFiles saved = SaveRunning(KernelOf(CountingCode()));
  auto pager = std::make_unique<PagerFake>(From(saved));
  pager->ServeOffer();
  VmmProcess copy = Spawn();
  PreparedRequest restore = PagedRestore(saved, *pager);
  Call(copy, std::move(restore.request), std::move(restore.fds));
  while (GuestErrors(copy) < 10) {
  }
  pager.reset();
  const auto exited = copy.AwaitExited(kPatienceMs);
  REQUIRE(exited.ok());
  CHECK(exited->reason() == v1::Exited::REASON_HOST_ERROR);
  CHECK_THAT(exited->detail(), Catch::Contains("pager"));
}

TEST_CASE(
    "paged restore: a machine is stopped, or its process ends, while its pager does not answer") {
  REQUIRE_PAGING();
  const SavedMachineFiles saved = SaveRunning(KernelOf(CountingCode()));
  for (const bool by_request : {true, false}) {
    absl::Notification asked, release;
    PagerFake pager([&](uint64_t, uint8_t*) {
      asked.Notify();
      release.WaitForNotification();
      return false;
    });
    pager.ServeOffer();
    VmmProcess copy = Spawn();
    PreparedRequest restore = PagedRestore(saved, pager);
    Call(copy, std::move(restore.request), std::move(restore.fds));
    asked.WaitForNotification();
    if (by_request) {
      Call(copy, ForcedStop());
      const auto exited = copy.AwaitExited(kPatienceMs);
      REQUIRE(exited.ok());
      CHECK(exited->reason() == v1::Exited::REASON_STOPPED);
    } else {
      copy.CloseControl();
    }
    CHECK(copy.Wait(kPatienceMs).ok());
    release.Notify();
  }
}

TEST_CASE("paged restore: a pager that has gone and a device that is none are refused by name") {
  REQUIRE_PAGING();
  const SavedMachineFiles saved = SaveRunning(KernelOf(CountingCode()));
  const auto refusal = [](PreparedRequest restore) {
    VmmProcess copy = Spawn();
    const auto response = copy.Call(std::move(restore.request), std::move(restore.fds));
    REQUIRE_FALSE(response.ok());
    CHECK(response.status().code() == absl::StatusCode::kFailedPrecondition);
    return std::string(response.status().message());
  };
  auto gone = std::make_unique<PagerFake>(From(saved));
  PreparedRequest restore = PagedRestore(saved, *gone);
  gone.reset();
  CHECK_THAT(refusal(std::move(restore)), Catch::Contains("offered to the pager"));

  PagerFake pager(From(saved));
  PreparedRequest wrong = PagedRestore(saved, pager);
  wrong.fds[2] = UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC));
  CHECK_THAT(refusal(std::move(wrong)), Catch::Contains("/dev/userfaultfd"));
}

}  // namespace
}  // namespace hearth::vmm::testing

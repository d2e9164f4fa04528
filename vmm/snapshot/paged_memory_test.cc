// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/paged_memory.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "vmm/testing/pager_fake.h"

// First line of a test that needs a userfaultfd which serves the kernel's faults.
#define REQUIRE_USERFAULTFD()                                                                \
  do {                                                                                       \
    if (!testing::HaveUserfaultfd(Catch::getResultCapture().getCurrentTestName().c_str())) { \
      return;                                                                                \
    }                                                                                        \
  } while (false)

namespace hearth::vmm {
namespace {

using testing::PagerFake;

constexpr GuestAddress kHigh(0x100000000);
constexpr std::array<GuestMemory::Range, 2> kRanges = {
    {{GuestAddress(0), 4 << 20}, {kHigh, 2 << 20}}};

// What the pager of these tests has at an offset of the memory file: never zero.
uint64_t WordAt(uint64_t file_offset) { return 0x5ca1ab1e00000000 + file_offset; }

bool GivePage(uint64_t file_offset, uint8_t* page) {
  for (uint64_t at = 0; at < 4096; at += sizeof(uint64_t)) {
    const uint64_t word = WordAt(file_offset + at);
    std::memcpy(page + at, &word, sizeof(word));
  }
  return true;
}

// Memory that `fake` serves from the moment it is offered.
PagedMemory::Created Serve(PagerFake& fake) {
  Pager pager;
  pager.socket = fake.TakeVmmEnd();
  pager.device = testing::OpenUserfaultfdDevice();
  pager.offer = [&fake](const UniqueFd&, UniqueFd userfaultfd, const GuestMemory& memory) {
    std::vector<PagerFake::Range> ranges;
    uint64_t offset = 0;
    for (const auto& region : memory.regions()) {
      const uint64_t size = region.mapping.size_bytes();
      ranges.push_back({reinterpret_cast<uint64_t>(region.mapping.data()), size, offset});
      offset += size;
    }
    fake.Serve(std::move(userfaultfd), std::move(ranges));
    return absl::OkStatus();
  };
  auto created = PagedMemory::Create(kRanges, std::move(pager), {});
  if (!created.ok()) {
    std::fprintf(stderr, "%s\n", std::string(created.status().message()).c_str());
    std::abort();
  }
  return *std::move(created);
}

// Writes the eight bytes at `address` into a pipe: the kernel reads them. 0, or errno.
int ReadByTheKernel(const GuestMemory& memory, GuestAddress address) {
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd read_end(ends[0]), write_end(ends[1]);
  const iovec iov = memory.Span(address, sizeof(uint64_t))->iov();
  return writev(write_end.get(), &iov, 1) == static_cast<ssize_t>(iov.iov_len) ? 0 : errno;
}

TEST_CASE("paged memory: each page comes from the pager, by its place in the memory file") {
  REQUIRE_USERFAULTFD();
  PagerFake fake(GivePage);
  const PagedMemory::Created paged = Serve(fake);
  CHECK(paged.memory.ReadValue<uint64_t>(GuestAddress(0)) == WordAt(0));
  CHECK(paged.memory.ReadValue<uint64_t>(GuestAddress(8)) == WordAt(8));
  CHECK(paged.memory.ReadValue<uint64_t>(GuestAddress(0x3ffff8)) == WordAt(0x3ffff8));
  CHECK(paged.memory.ReadValue<uint64_t>(kHigh) == WordAt(4 << 20));
  CHECK(ReadByTheKernel(paged.memory, GuestAddress(0x5000)) == 0);
  CHECK(fake.pages_served() == 4);
  // What is written first keeps the rest of its page.
  REQUIRE(paged.memory.WriteValue<uint64_t>(GuestAddress(0x9000), 7));
  CHECK(paged.memory.ReadValue<uint64_t>(GuestAddress(0x9000)) == 7u);
  CHECK(paged.memory.ReadValue<uint64_t>(GuestAddress(0x9008)) == WordAt(0x9008));
  CHECK_FALSE(paged.watch->lost());
}

TEST_CASE("paged memory: a pager that goes while a page is waited for fails the system call") {
  REQUIRE_USERFAULTFD();
  PagerFake fake(
      [](uint64_t offset, uint8_t* page) { return offset == 0 ? GivePage(offset, page) : false; });
  const PagedMemory::Created paged = Serve(fake);
  absl::Notification told;
  paged.watch->OnLost([&] { told.Notify(); });
  CHECK(ReadByTheKernel(paged.memory, GuestAddress(0)) == 0);
  CHECK(ReadByTheKernel(paged.memory, GuestAddress(0x7000)) == EFAULT);
  CHECK(told.HasBeenNotified());
  CHECK(paged.watch->lost());
  // A page that was given is gone with the others.
  CHECK(ReadByTheKernel(paged.memory, GuestAddress(0)) == EFAULT);
  bool again = false;
  paged.watch->OnLost([&] { again = true; });
  CHECK(again);
}

TEST_CASE(
    "paged memory: code that touches a page after the pager went ends the process, and says why") {
  REQUIRE_USERFAULTFD();
  int ends[2];
  REQUIRE(pipe2(ends, O_CLOEXEC) == 0);
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t child = fork();
  if (child == 0) {
    dup2(write_end.get(), STDERR_FILENO);
    PagerFake fake([](uint64_t, uint8_t*) { return false; });
    const PagedMemory::Created paged = Serve(fake);
    paged.memory.ReadValue<uint64_t>(GuestAddress(0));
    _exit(0);
  }
  write_end.reset();
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 1);
  char text[256] = {};
  CHECK(read(read_end.get(), text, sizeof(text) - 1) > 0);
  CHECK_THAT(std::string(text), Catch::Contains("served its pages had gone"));
}

TEST_CASE("paged memory: who waits for a pager that does not answer is released by revoking") {
  REQUIRE_USERFAULTFD();
  absl::Notification asked, release;
  PagerFake fake([&](uint64_t offset, uint8_t* page) {
    asked.Notify();
    release.WaitForNotification();
    return GivePage(offset, page);
  });
  PagedMemory::Created paged = Serve(fake);
  int error = 0;
  std::thread waiter([&] { error = ReadByTheKernel(paged.memory, GuestAddress(0)); });
  asked.WaitForNotification();
  paged.watch->Revoke();
  waiter.join();
  CHECK(error == EFAULT);
  CHECK_FALSE(paged.watch->lost());
  paged.watch->Revoke();
  // What stands in its place afterwards is nobody's memory any more.
  paged.watch->Discard();
  CHECK(paged.memory.ReadValue<uint64_t>(GuestAddress(0)) == 0u);
  release.Notify();
}

TEST_CASE("paged memory: a wrong device, a pager that has gone and a refused jail are errors") {
  REQUIRE_USERFAULTFD();
  const auto create = [](UniqueFd device, absl::Status offered, absl::Status jail) {
    PagerFake fake(GivePage);
    Pager pager;
    pager.socket = fake.TakeVmmEnd();
    pager.device = std::move(device);
    pager.offer = [&](const UniqueFd&, UniqueFd, const GuestMemory&) { return offered; };
    return PagedMemory::Create(kRanges, std::move(pager), [&] { return jail; }).status();
  };
  const absl::Status ok;
  const absl::Status device = create(UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)), ok, ok);
  CHECK(device.code() == absl::StatusCode::kFailedPrecondition);
  CHECK_THAT(std::string(device.message()), Catch::Contains("/dev/userfaultfd"));
  const absl::Status offer =
      create(testing::OpenUserfaultfdDevice(), absl::UnavailableError("closed"), ok);
  CHECK(offer.code() == absl::StatusCode::kFailedPrecondition);
  CHECK_THAT(std::string(offer.message()), Catch::Contains("offered to the pager: closed"));
  CHECK(create(testing::OpenUserfaultfdDevice(), ok, absl::InternalError("jail")).message() ==
        "jail");
  CHECK(create(testing::OpenUserfaultfdDevice(), ok, ok).ok());
}

}  // namespace
}  // namespace hearth::vmm

// SPDX-License-Identifier: Apache-2.0
#include "vmm/testing/pager_fake.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "hearth/vmm/v1/vmm.pb.h"
#include "wire/fd_socket.h"

namespace hearth::vmm::testing {
namespace {

constexpr int kPatienceMs = 60'000;
constexpr uint64_t kPageBytes = 4096;

}  // namespace

UniqueFd OpenUserfaultfdDevice() { return UniqueFd(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC)); }

bool HaveUserfaultfd(const char* test) {
  if (OpenUserfaultfdDevice()) return true;
  std::printf("SKIPPED: %s: /dev/userfaultfd: %s\n", test, std::strerror(errno));
  return false;
}

PagerFake::PagerFake(GetPage get_page) : get_page_(std::move(get_page)) {
  auto ends = wire::MakeSocketPair();
  stop_ = UniqueFd(eventfd(0, EFD_CLOEXEC));
  if (!ends.ok() || !stop_) {
    std::perror("pager");
    std::abort();
  }
  socket_ = std::move(ends->first);
  vmm_end_ = std::move(ends->second);
}

PagerFake::~PagerFake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(stop_.get(), &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
}

void PagerFake::ServeOffer() {
  thread_ = std::thread([this] {
    const absl::Status status = ReceiveOffer();
    if (status.ok()) {
      Loop();
    } else {
      std::fprintf(stderr, "pager: %s\n", std::string(status.message()).c_str());
    }
    socket_.reset();
    userfaultfd_.reset();
  });
}

void PagerFake::Serve(UniqueFd userfaultfd, std::vector<Range> ranges) {
  userfaultfd_ = std::move(userfaultfd);
  ranges_ = std::move(ranges);
  thread_ = std::thread([this] {
    Loop();
    socket_.reset();
    userfaultfd_.reset();
  });
}

absl::Status PagerFake::ReceiveOffer() {
  // Close-on-exec: a VMM that is spawned meanwhile would keep the pager's end open.
  wire::FdSocket socket(UniqueFd(fcntl(socket_.get(), F_DUPFD_CLOEXEC, 0)));
  ASSIGN_OR_RETURN(wire::FdFrame frame, socket.BlockingReceive(kPatienceMs));
  v1::MemoryOffer offer;
  if (!offer.ParseFromString(frame.payload) || frame.fds.size() != 1 ||
      offer.userfaultfd_fd() != 0 || offer.page_bytes() != kPageBytes) {
    return absl::InternalError("not the offer that was expected");
  }
  userfaultfd_ = std::move(frame.fds[0]);
  for (const v1::MemoryRange& range : offer.ranges()) {
    ranges_.push_back({range.address(), range.size_bytes(), range.file_offset()});
  }
  return absl::OkStatus();
}

void PagerFake::Loop() {
  pollfd entries[] = {{userfaultfd_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  for (;;) {
    if (poll(entries, 2, -1) < 0 && errno != EINTR) return;
    if (entries[1].revents != 0) return;
    uffd_msg message;
    while (read(userfaultfd_.get(), &message, sizeof(message)) == sizeof(message)) {
      if (message.event != UFFD_EVENT_PAGEFAULT) continue;
      if (!ServeFault(message.arg.pagefault.address & ~(kPageBytes - 1))) return;
    }
  }
}

bool PagerFake::ServeFault(uint64_t address) {
  for (const Range& range : ranges_) {
    if (address < range.address || address - range.address >= range.size_bytes) continue;
    alignas(kPageBytes) uint8_t page[kPageBytes];
    if (!get_page_(range.file_offset + (address - range.address), page)) return false;
    uffdio_copy copy{};
    copy.dst = address;
    copy.src = reinterpret_cast<uint64_t>(page);
    copy.len = kPageBytes;
    // Before anybody goes on who could look at it.
    pages_served_.fetch_add(1);
    // EEXIST: two vCPUs asked for the same page. Others: the VMM has gone.
    if (ioctl(userfaultfd_.get(), UFFDIO_COPY, &copy) != 0) {
      pages_served_.fetch_sub(1);
      if (errno != EEXIST) return false;
      uffdio_range waiting{address, kPageBytes};
      ioctl(userfaultfd_.get(), UFFDIO_WAKE, &waiting);
      return true;
    }
    return true;
  }
  std::fprintf(stderr, "pager: a fault outside the memory that was offered\n");
  return false;
}

}  // namespace hearth::vmm::testing

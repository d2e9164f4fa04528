// SPDX-License-Identifier: Apache-2.0
#include "vmm/snapshot/paged_memory.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace hearth::vmm {
namespace {

// The watching thread polls and makes a few system calls.
constexpr size_t kWatchStackBytes = 256 * 1024;

// What the signal handler has to know: that memory was revoked, so that a SIGSEGV is likely its
// doing. A handler gets at nothing but globals.
std::atomic<bool> memory_revoked{false};

void OnForbiddenAccess(int) {
  // Installed with SA_RESETHAND: returning repeats the access, which then ends us by the signal.
  if (!memory_revoked.load()) return;
  constexpr char kText[] =
      "hearth-vmm: guest memory was touched after the process that served its pages had gone\n";
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText, sizeof(kText) - 1);
  _exit(1);
}

absl::StatusOr<UniqueFd> MakeUserfaultfd(int device) {
  // Without UFFD_USER_MODE_ONLY: KVM's faults are the kernel's, which is why the device is needed.
  UniqueFd fd(ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  if (!fd) {
    return absl::FailedPreconditionError(
        absl::StrCat("the pager's device made no userfaultfd; pass an open /dev/userfaultfd "
                     "(Linux 6.1): ",
                     std::strerror(errno)));
  }
  uffdio_api api{};
  api.api = UFFD_API;
  if (ioctl(fd.get(), UFFDIO_API, &api) != 0) return ErrnoStatus("UFFDIO_API");
  return fd;
}

}  // namespace

absl::StatusOr<PagedMemory::Created> PagedMemory::Create(std::span<const GuestMemory::Range> ranges,
                                                         Pager pager,
                                                         std::function<absl::Status()> enter_jail) {
  ASSIGN_OR_RETURN(UniqueFd userfaultfd, MakeUserfaultfd(pager.device.get()));
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return ErrnoStatus("eventfd");
  UniqueFd copy(fcntl(userfaultfd.get(), F_DUPFD_CLOEXEC, 0));
  if (!copy) return ErrnoStatus("duplicating the userfaultfd");
  std::shared_ptr<PagedMemory> watch(
      new PagedMemory(std::move(userfaultfd), std::move(pager.socket), std::move(wake)));

  ASSIGN_OR_RETURN(GuestMemory memory, GuestMemory::CreateAnonymous(ranges));
  // Whoever lets go of the memory first ends the watching: what is mapped in its place later is
  // nobody's to forbid.
  memory.KeepUntilUnmapped(std::shared_ptr<void>(nullptr, [watch](void*) { watch->Revoke(); }));
  RETURN_IF_ERROR(watch->Register(memory));
  if (absl::Status status = pager.offer(watch->socket_, std::move(copy), memory); !status.ok()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the memory cannot be offered to the pager: ", status.message()));
  }
  RETURN_IF_ERROR(watch->StartWatching(std::move(enter_jail)));
  return Created{std::move(memory), std::move(watch)};
}

absl::Status PagedMemory::Register(const GuestMemory& memory) {
  for (const auto& region : memory.regions()) {
    uffdio_register range{};
    range.range.start = reinterpret_cast<uint64_t>(region.mapping.data());
    range.range.len = region.mapping.size_bytes();
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(userfaultfd_.get(), UFFDIO_REGISTER, &range) != 0) {
      return ErrnoStatus("UFFDIO_REGISTER of guest memory");
    }
    places_.push_back({region.mapping.data(), region.mapping.size_bytes()});
  }
  return absl::OkStatus();
}

absl::Status PagedMemory::StartWatching(std::function<absl::Status()> enter_jail) {
  struct sigaction action {};
  action.sa_handler = OnForbiddenAccess;
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  if (sigaction(SIGSEGV, &action, nullptr) != 0) return ErrnoStatus("sigaction for SIGSEGV");
  enter_jail_ = std::move(enter_jail);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kWatchStackBytes);
  const int error = pthread_create(&thread_, &attributes, &PagedMemory::Entry, this);
  pthread_attr_destroy(&attributes);
  if (error != 0) return ErrnoStatus(error, "pthread_create for the thread that watches the pager");
  watching_ = true;
  started_.wait();
  return jail_status_;
}

PagedMemory::~PagedMemory() { Revoke(); }

void PagedMemory::OnLost(std::function<void()> callback) {
  MutexLock lock(&mutex_);
  if (lost_.load()) {
    callback();
  } else {
    on_lost_ = std::move(callback);
  }
}

void PagedMemory::Revoke() {
  if (!watching_) return;
  const uint64_t one = 1;
  // An eventfd that is full is readable as well.
  [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
  pthread_join(thread_, nullptr);
  watching_ = false;
}

void PagedMemory::Discard() {
  for (const Place& place : places_) {
    // Fails only where the kernel has no memory for the mapping itself; then it stays forbidden.
    mmap(place.data, place.size_bytes, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  }
}

void* PagedMemory::Entry(void* self) {
  static_cast<PagedMemory*>(self)->Watch();
  return nullptr;
}

void PagedMemory::Watch() {
  if (enter_jail_) jail_status_ = enter_jail_();
  const bool jailed = jail_status_.ok();
  started_.count_down();
  if (!jailed) return;
  // A pager has nothing to say, so only its hanging up is waited for.
  pollfd entries[] = {{socket_.get(), POLLRDHUP, 0}, {wake_.get(), POLLIN, 0}};
  while (poll(entries, 2, -1) < 0 && errno == EINTR) {
  }
  if (entries[1].revents == 0) {
    MutexLock lock(&mutex_);
    lost_.store(true);
    // Before anybody is woken: who then fails finds the reason told already.
    if (on_lost_) on_lost_();
  }
  ForbidAccess();
}

void PagedMemory::ForbidAccess() {
  memory_revoked.store(true);
  revoked_.store(true);
  for (const Place& place : places_) {
    // A mapping that may not be forbidden may not be woken either: better a guest that waits.
    if (mprotect(place.data, place.size_bytes, PROT_NONE) != 0) continue;
    uffdio_range range{reinterpret_cast<uint64_t>(place.data), place.size_bytes};
    ioctl(userfaultfd_.get(), UFFDIO_WAKE, &range);
  }
}

}  // namespace hearth::vmm

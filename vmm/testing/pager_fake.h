// SPDX-License-Identifier: Apache-2.0
// A pager for tests: serves guest memory's pages from wherever a function gets them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::vmm::testing {

// An open /dev/userfaultfd; false with a line that cmake/run-test finds, when this host has none
// that we may use.
UniqueFd OpenUserfaultfdDevice();
bool HaveUserfaultfd(const char* test);

// Threads: the owner's, and one of its own, which calls the function.
class PagerFake {
 public:
  struct Range {
    uint64_t address = 0;
    uint64_t size_bytes = 0;
    uint64_t file_offset = 0;
  };
  // Fills `page` (4 KiB) with what belongs at `file_offset`. False: the pager dies now.
  using GetPage = std::function<bool(uint64_t file_offset, uint8_t* page)>;

  explicit PagerFake(GetPage get_page);
  // Hangs up, as a pager that dies; no page that was asked for afterwards is given.
  ~PagerFake();
  PagerFake(const PagerFake&) = delete;
  PagerFake& operator=(const PagerFake&) = delete;

  // The VMM's end of the socket; once.
  UniqueFd TakeVmmEnd() { return std::move(vmm_end_); }
  // Serves what the VMM offers over the socket.
  void ServeOffer();
  // Serves without one.
  void Serve(UniqueFd userfaultfd, std::vector<Range> ranges);

  uint64_t pages_served() const { return pages_served_.load(); }

 private:
  absl::Status ReceiveOffer();
  void Loop();
  bool ServeFault(uint64_t address);

  GetPage get_page_;
  UniqueFd vmm_end_;
  UniqueFd socket_;
  UniqueFd stop_;  // An eventfd.
  UniqueFd userfaultfd_;
  std::vector<Range> ranges_;
  std::atomic<uint64_t> pages_served_{0};
  std::thread thread_;
};

}  // namespace hearth::vmm::testing

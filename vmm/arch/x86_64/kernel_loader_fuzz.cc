// SPDX-License-Identifier: Apache-2.0
// Any file as a kernel: it is loaded or refused, and nothing outside the guest's memory is touched.
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "vmm/arch/x86_64/kernel_loader.h"
#include "vmm/arch/x86_64/layout.h"
#include "vmm/base/unique_fd.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using hearth::vmm::GuestMemory;
  namespace arch = hearth::vmm::x86_64;
  const auto memory = GuestMemory::CreateAnonymous(arch::RamRanges(4 << 20));
  const hearth::UniqueFd file(memfd_create("kernel", MFD_CLOEXEC));
  if (!memory.ok() || write(file.get(), data, size) != static_cast<ssize_t>(size)) std::abort();
  const auto kernel = arch::LoadKernel(file.get(), *memory);
  if (kernel.ok()) {
    if (kernel->end > (4 << 20) || kernel->entry >= kernel->end) std::abort();
    arch::LoadInitrd(file.get(), *memory, kernel->end).IgnoreError();
  }
  return 0;
}

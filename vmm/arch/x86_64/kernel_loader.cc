// SPDX-License-Identifier: Apache-2.0
#include "vmm/arch/x86_64/kernel_loader.h"

#include <elf.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "vmm/arch/x86_64/layout.h"
#include "vmm/base/read_at.h"

namespace hearth::vmm::x86_64 {
namespace {

constexpr uint32_t kPhys32EntryNote =
    18;  // XEN_ELFNOTE_PHYS32_ENTRY, xen/include/public/elfnote.h.
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kMinMappedBytes = 16 * kPageBytes;  // Below that copying is as cheap.
constexpr char kKernelFile[] = "the kernel";

absl::Status Bad(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("the kernel cannot be booted: ", why));
}

// The size of a regular file.
absl::StatusOr<uint64_t> FileSize(int fd, absl::string_view name) {
  struct stat info {};
  if (fstat(fd, &info) != 0) return ErrnoStatus(absl::StrCat("fstat of the ", name));
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("the ", name, " is no regular file"));
  }
  return static_cast<uint64_t>(info.st_size);
}

// Puts the file's bytes from `offset` to `to`, which is fresh guest memory. Whole pages are mapped,
// privately, where the alignment allows it: nothing is copied, VMs share the pages they do not
// write, and what the guest never touches is never read. The file must therefore stay as it is
// while the VM lives, which holds for the content-addressed image store.
absl::Status Place(int fd, uint64_t offset, iovec to) {
  auto* const data = static_cast<uint8_t*>(to.iov_base);
  const uint64_t address = reinterpret_cast<uint64_t>(data);
  const uint64_t head =
      std::min<uint64_t>((kPageBytes - address % kPageBytes) % kPageBytes, to.iov_len);
  const uint64_t whole = (to.iov_len - head) & ~(kPageBytes - 1);
  if ((offset + head) % kPageBytes != 0 || whole < kMinMappedBytes ||
      mmap(data + head, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
           static_cast<off_t>(offset + head)) == MAP_FAILED) {
    return ReadAt(fd, offset, to, kKernelFile);
  }
  madvise(data + head, whole, MADV_DONTDUMP);  // As the rest of guest memory; advice only.
  RETURN_IF_ERROR(ReadAt(fd, offset, {data, head}, kKernelFile));
  const uint64_t tail = head + whole;
  return ReadAt(fd, offset + tail, {data + tail, to.iov_len - tail}, kKernelFile);
}

bool InFile(uint64_t offset, uint64_t size, uint64_t file_size) {
  return offset <= file_size && size <= file_size - offset;
}

absl::StatusOr<std::vector<Elf64_Phdr>> ReadProgramHeaders(int fd, uint64_t file_size) {
  Elf64_Ehdr header{};
  if (file_size < sizeof(header)) return Bad("it is shorter than an ELF header");
  RETURN_IF_ERROR(ReadAt(fd, 0, {&header, sizeof(header)}, kKernelFile));
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return Bad("it is not an ELF file (a vmlinux is needed, not a bzImage)");
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64) {
    return Bad("it is not a 64-bit x86 ELF file");
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 ||
      header.e_phnum > kMaxProgramHeaders) {
    return Bad("its ELF program headers have an unknown size or number");
  }
  std::vector<Elf64_Phdr> headers(header.e_phnum);
  const uint64_t bytes = headers.size() * sizeof(Elf64_Phdr);
  if (!InFile(header.e_phoff, bytes, file_size)) {
    return Bad("it is truncated: its program headers lie behind its end");
  }
  RETURN_IF_ERROR(ReadAt(fd, header.e_phoff, {headers.data(), bytes}, kKernelFile));
  return headers;
}

struct Segment {
  uint64_t start;
  uint64_t end;
  GuestSpan span;
  uint64_t file_offset;
  uint64_t file_bytes;
};

// All segments, checked against the file, the memory and each other before any is read.
absl::StatusOr<std::vector<Segment>> CheckSegments(const std::vector<Elf64_Phdr>& headers,
                                                   uint64_t file_size, const GuestMemory& memory) {
  std::vector<Segment> segments;
  for (const Elf64_Phdr& header : headers) {
    if (header.p_type != PT_LOAD || header.p_memsz == 0) continue;
    if (header.p_filesz > header.p_memsz) return Bad("a segment is larger in the file than loaded");
    if (!InFile(header.p_offset, header.p_filesz, file_size)) {
      return Bad("it is truncated: a segment lies behind its end");
    }
    const auto span = memory.Span(GuestAddress(header.p_paddr), header.p_memsz);
    if (header.p_paddr < kHighMemoryStart || !span.has_value()) {
      return Bad(absl::StrCat("a segment of ", header.p_memsz, " bytes at address ", header.p_paddr,
                              " lies outside the guest's memory"));
    }
    segments.push_back(
        {header.p_paddr, header.p_paddr + header.p_memsz, *span, header.p_offset, header.p_filesz});
  }
  if (segments.empty()) return Bad("it has nothing to load");
  std::sort(segments.begin(), segments.end(),
            [](const Segment& a, const Segment& b) { return a.start < b.start; });
  for (size_t i = 1; i < segments.size(); ++i) {
    if (segments[i].start < segments[i - 1].end) return Bad("two of its segments overlap");
  }
  return segments;
}

// The PVH entry point among a PT_NOTE segment's notes. `alignment` is 4 or 8.
std::optional<uint64_t> FindEntryNote(std::span<const uint8_t> notes, uint64_t alignment) {
  const auto padded = [alignment](uint64_t n) { return (n + alignment - 1) & ~(alignment - 1); };
  while (notes.size() >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header;
    std::memcpy(&header, notes.data(), sizeof(header));
    // 32-bit sizes in 64-bit sums: nothing wraps.
    const uint64_t name_at = sizeof(header);
    const uint64_t data_at = padded(name_at + header.n_namesz);
    const uint64_t next_at = padded(data_at + header.n_descsz);
    if (data_at + header.n_descsz > notes.size()) return std::nullopt;
    const bool is_xen = header.n_namesz == 4 && std::memcmp(notes.data() + name_at, "Xen", 4) == 0;
    if (is_xen && header.n_type == kPhys32EntryNote &&
        (header.n_descsz == 4 || header.n_descsz == 8)) {
      uint64_t entry = 0;
      std::memcpy(&entry, notes.data() + data_at, header.n_descsz);
      return entry;
    }
    notes = notes.subspan(std::min<uint64_t>(next_at, notes.size()));
  }
  return std::nullopt;
}

absl::StatusOr<uint64_t> ReadEntryPoint(int fd, const std::vector<Elf64_Phdr>& headers,
                                        uint64_t file_size) {
  for (const Elf64_Phdr& header : headers) {
    if (header.p_type != PT_NOTE) continue;
    if (header.p_filesz > kMaxNoteBytes) return Bad("its notes are too long");
    if (!InFile(header.p_offset, header.p_filesz, file_size)) {
      return Bad("it is truncated: its notes lie behind its end");
    }
    std::vector<uint8_t> notes(header.p_filesz);
    RETURN_IF_ERROR(ReadAt(fd, header.p_offset, {notes.data(), notes.size()}, kKernelFile));
    const auto entry = FindEntryNote(notes, header.p_align == 8 ? 8 : 4);
    if (entry.has_value()) return *entry;
  }
  return Bad("it has no PVH entry note (Linux needs CONFIG_PVH=y)");
}

}  // namespace

absl::StatusOr<LoadedKernel> LoadKernel(int fd, const GuestMemory& memory) {
  ASSIGN_OR_RETURN(const uint64_t file_size, FileSize(fd, "kernel"));
  ASSIGN_OR_RETURN(const auto headers, ReadProgramHeaders(fd, file_size));
  ASSIGN_OR_RETURN(const auto segments, CheckSegments(headers, file_size, memory));
  ASSIGN_OR_RETURN(const uint64_t entry, ReadEntryPoint(fd, headers, file_size));
  const bool entry_is_loaded = std::any_of(
      segments.begin(), segments.end(),
      [entry](const Segment& segment) { return entry >= segment.start && entry < segment.end; });
  if (!entry_is_loaded || entry > UINT32_MAX) {
    return Bad("its PVH entry point lies outside its segments");
  }
  for (const Segment& segment : segments) {
    iovec to = segment.span.iov();
    to.iov_len = segment.file_bytes;  // The rest is zero already.
    const absl::Status placed = Place(fd, segment.file_offset, to);
    if (!placed.ok()) return Annotate(placed, "reading the kernel");
  }
  return LoadedKernel{static_cast<uint32_t>(entry), segments.back().end};
}

absl::StatusOr<LoadedInitrd> LoadInitrd(int fd, const GuestMemory& memory, uint64_t kernel_end) {
  ASSIGN_OR_RETURN(const uint64_t size, FileSize(fd, "initial RAM disk"));
  if (size == 0) return absl::InvalidArgumentError("the initial RAM disk is empty");
  const auto& low = memory.regions().front();
  const uint64_t low_end = low.start.value() + low.mapping.size_bytes();
  const uint64_t address = size > low_end ? 0 : (low_end - size) & ~(kPageBytes - 1);
  const auto span = memory.Span(GuestAddress(address), size);
  if (address < std::max(kernel_end, kHighMemoryStart) || !span.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("the initial RAM disk of ", size,
                                                   " bytes does not fit in the guest's memory"));
  }
  RETURN_IF_ERROR(ReadAt(fd, 0, span->iov(), "the initial RAM disk"));
  return LoadedInitrd{address, size};
}

}  // namespace hearth::vmm::x86_64

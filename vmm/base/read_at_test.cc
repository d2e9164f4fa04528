// SPDX-License-Identifier: Apache-2.0
#include "vmm/base/read_at.h"

#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <string>

#include "vmm/base/unique_fd.h"

namespace hearth {
namespace {

TEST_CASE("read at: all of the bytes, or a status that names the file") {
  const UniqueFd file(memfd_create("hearth-test", MFD_CLOEXEC));
  REQUIRE(pwrite(file.get(), "0123456789", 10, 0) == 10);
  std::string bytes(4, '\0');
  const auto read = [&](int fd, uint64_t offset) {
    return ReadAt(fd, offset, {bytes.data(), bytes.size()}, "the example");
  };
  REQUIRE(read(file.get(), 6).ok());
  CHECK(bytes == "6789");
  CHECK(read(file.get(), 7) == absl::DataLossError("the example is truncated"));
  CHECK(read(-1, 0).message().find("the example") != std::string::npos);
  CHECK(ReadAt(file.get(), 10, {nullptr, 0}, "the example").ok());
}

}  // namespace
}  // namespace hearth

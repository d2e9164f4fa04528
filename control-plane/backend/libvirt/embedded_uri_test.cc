// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/embedded_uri.h"

#include <catch2/catch.hpp>

namespace hearth::libvirt {
namespace {

TEST_CASE("embedded uri: only the embedded driver has a root") {
  CHECK(EmbeddedRoot("qemu:///embed?root=/run/x") == "/run/x");
  CHECK(EmbeddedRoot("qemu:///embed?root=/run/x&a=b") == "/run/x");
  CHECK(EmbeddedRoot("qemu:///embed?a=b;root=/run/x#c") == "/run/x");
  CHECK(EmbeddedRoot("qemu:///embed").empty());
  CHECK(EmbeddedRoot("qemu:///embed?roots=/run/x").empty());
  CHECK(EmbeddedRoot("qemu:///system").empty());
  CHECK(EmbeddedRoot("qemu:///system?root=/run/x").empty());
}

TEST_CASE("embedded uri: a root is as libvirt takes it from the URI") {
  CHECK(EmbeddedRoot("qemu:///embed?root=/run/a%20b%2f%26c") == "/run/a b/&c");
  CHECK(EmbeddedRoot("qemu:///embed?root=/run/100%") == "/run/100%");
  CHECK(EmbeddedRoot("qemu:///embed?root=/run/%4") == "/run/%4");
  CHECK(EmbeddedRoot("qemu:///embed?root=/run/%zz+") == "/run/%zz+");
}

TEST_CASE("embedded uri: any folder can be named in one") {
  CHECK(EmbeddedUri("/run/hearth/libvirt/embed") == "qemu:///embed?root=/run/hearth/libvirt/embed");
  CHECK(EmbeddedUri("/a b") == "qemu:///embed?root=/a%20b");
  std::string all;
  for (int byte = 1; byte < 256; ++byte) all += static_cast<char>(byte);
  CHECK(EmbeddedRoot(EmbeddedUri(all)) == all);
}

}  // namespace
}  // namespace hearth::libvirt

// SPDX-License-Identifier: Apache-2.0
// What libvirt is told of a machine (libvirt.org/formatdomain.html).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace hearth::libvirt {

inline constexpr char kDomainPrefix[] = "hearth-";
// Of the element in a domain's <metadata> that says which hearth-libvirt has made it.
inline constexpr char kOwnerNamespace[] = "urn:hearth:owner";

struct DiskSpec {
  std::string serial;
  bool read_only = true;
};

struct DomainSpec {
  std::string uuid;   // The domain's; its name is kDomainPrefix and this.
  std::string owner;  // The hearth-libvirt's (OwnerTag()).
  bool kvm = false;   // Else QEMU emulates the processor.
  uint32_t memory_mib = 0;
  uint32_t vcpu_count = 1;
  // Empty for one that is restored: its kernel is in its memory.
  std::string kernel_path;
  std::string command_line;
  std::vector<DiskSpec> disks;  // Their files are associated as the descriptors of TargetOf().
  bool entropy = false;
  // The guest's context id when its agent is reached over vsock; 0: over a virtio-serial port.
  uint32_t vsock_cid = 0;
  // QEMU listens on both. The port's; unused with a context id.
  std::string agent_socket;
  std::string console_socket;  // Empty: what the guest writes to its serial port is dropped.
};

// Whether `text` is a UUID in its canonical form, in lower case.
bool IsUuid(absl::string_view text);

std::string NameOf(const DomainSpec& spec);
// Whether `name` is one that NameOf() gives: an operator's own domain may be called "hearth-db".
bool IsDomainName(absl::string_view name);

// A hearth-libvirt is known by its run directory, of which there is one to each.
std::string OwnerTag(absl::string_view run_directory);
// Whether the owner's element, as libvirt tells it, is of that owner.
bool IsOwner(absl::string_view element, absl::string_view owner);

// The guest's name for a disk, which is also that of its group of descriptors: "vda", "vdb".
std::string TargetOf(size_t disk);

// For an element's text or an attribute in either kind of quotes. INVALID_ARGUMENT for what XML 1.0
// cannot hold at all: control characters, and bytes that are no UTF-8.
absl::StatusOr<std::string> EscapeXml(absl::string_view text);

// The whole domain. INVALID_ARGUMENT when a limit is passed or a string cannot be told in XML.
absl::StatusOr<std::string> DomainXml(const DomainSpec& spec);

}  // namespace hearth::libvirt

// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/domain_xml.h"

#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/strings/substitute.h"
#include "control-plane/backend/libvirt/embedded_uri.h"
#include "control-plane/backend/libvirt/limits.h"
#include "vmm/base/status.h"
#include "vmm/base/utf8.h"

namespace hearth::libvirt {
namespace {

constexpr size_t kUuidBytes = 36;

// As of UTF-8, but for U+FFFE and U+FFFF, which XML 1.0 excludes.
size_t SequenceBytes(absl::string_view text) {
  const size_t size = Utf8SequenceBytes(text);
  return size == 3 && text.substr(0, 2) == "\xEF\xBF" && text[2] >= '\xBE' ? 0 : size;
}

absl::Status Check(const DomainSpec& spec) {
  if (!IsUuid(spec.uuid)) return absl::InvalidArgumentError("the machine's id is no UUID");
  if (spec.memory_mib < kMinGuestMemoryMib || spec.memory_mib > kMaxGuestMemoryMib) {
    return absl::InvalidArgumentError(absl::StrCat("a guest with ", spec.memory_mib, " MiB"));
  }
  if (spec.vcpu_count == 0 || spec.vcpu_count > kMaxVcpus) {
    return absl::InvalidArgumentError(absl::StrCat("a guest with ", spec.vcpu_count, " vCPUs"));
  }
  if (spec.disks.size() > kMaxDisks) {
    return absl::InvalidArgumentError(absl::StrCat(spec.disks.size(), " disks are too many"));
  }
  if (spec.command_line.size() > kMaxCommandLineBytes) {
    return absl::InvalidArgumentError("the kernel's command line is too long");
  }
  for (const DiskSpec& disk : spec.disks) {
    // Serials go through QEMU's own syntax, too.
    if (disk.serial.size() > kMaxSerialBytes ||
        disk.serial.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                      "0123456789-_.") != std::string::npos) {
      return absl::InvalidArgumentError("a disk's serial is too long or has odd characters");
    }
  }
  return absl::OkStatus();
}

std::string AgentDevices(uint32_t vsock_cid, absl::string_view socket) {
  if (vsock_cid != 0) {
    return absl::StrCat("<vsock model='virtio'><cid auto='no' address='", vsock_cid,
                        "'/><address type='virtio-mmio'/></vsock>\n");
  }
  return absl::StrCat(
      "<controller type='virtio-serial' index='0'><address type='virtio-mmio'/></controller>\n"
      "<channel type='unix'><source mode='bind' path='",
      socket, "'/><target type='virtio' name='agent'/></channel>\n");
}

}  // namespace

bool IsUuid(absl::string_view text) {
  if (text.size() != kUuidBytes) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash != (text[i] == '-')) return false;
    if (!dash && (text[i] == '\0' || strchr("0123456789abcdef", text[i]) == nullptr)) return false;
  }
  return true;
}

std::string NameOf(const DomainSpec& spec) { return absl::StrCat(kDomainPrefix, spec.uuid); }

bool IsDomainName(absl::string_view name) {
  return absl::ConsumePrefix(&name, kDomainPrefix) && IsUuid(name);
}

// Nothing in it has a meaning in XML, or can be written in another way.
std::string OwnerTag(absl::string_view run_directory) { return PercentEncode(run_directory); }

bool IsOwner(absl::string_view element, absl::string_view owner) {
  return absl::StrContains(element, absl::StrCat(">", owner, "</"));
}

std::string TargetOf(size_t disk) {
  return absl::StrCat("vd", std::string(1, static_cast<char>('a' + disk)));
}

absl::StatusOr<std::string> EscapeXml(absl::string_view text) {
  std::string escaped;
  escaped.reserve(text.size());
  while (!text.empty()) {
    const size_t size = SequenceBytes(text);
    const char c = text[0];
    if (size == 0) return absl::InvalidArgumentError("a string for libvirt is no UTF-8");
    if (size == 1 && static_cast<uint8_t>(c) < 0x20) {
      return absl::InvalidArgumentError("a string for libvirt has a control character");
    }
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&apos;";
        break;
      default:
        escaped.append(text.data(), size);
    }
    text.remove_prefix(size);
  }
  return escaped;
}

absl::StatusOr<std::string> DomainXml(const DomainSpec& spec) {
  RETURN_IF_ERROR(Check(spec));
  ASSIGN_OR_RETURN(const std::string owner, EscapeXml(spec.owner));
  ASSIGN_OR_RETURN(const std::string kernel, EscapeXml(spec.kernel_path));
  ASSIGN_OR_RETURN(const std::string command_line, EscapeXml(spec.command_line));
  ASSIGN_OR_RETURN(const std::string agent, EscapeXml(spec.agent_socket));
  ASSIGN_OR_RETURN(const std::string console, EscapeXml(spec.console_socket));
  std::string boot;
  if (!kernel.empty()) {
    boot = absl::Substitute("<kernel>$0</kernel><cmdline>$1</cmdline>", kernel, command_line);
  }
  std::string devices = AgentDevices(spec.vsock_cid, agent);
  for (size_t i = 0; i < spec.disks.size(); ++i) {
    ASSIGN_OR_RETURN(const std::string serial, EscapeXml(spec.disks[i].serial));
    // The path is never opened: the group's descriptor stands for it.
    absl::StrAppend(&devices,
                    absl::Substitute("<disk type='file' device='disk'>"
                                     "<driver name='qemu' type='raw'/>"
                                     "<source file='/hearth/$0' fdgroup='$0'/>"
                                     "<target dev='$0' bus='virtio'/>$1$2"
                                     "<address type='virtio-mmio'/></disk>\n",
                                     TargetOf(i), spec.disks[i].read_only ? "<readonly/>" : "",
                                     serial.empty() ? "" : "<serial>" + serial + "</serial>"));
  }
  if (console.empty()) {
    devices += "<serial type='null'><target port='0'/></serial>\n";
  } else {
    absl::StrAppend(&devices, "<serial type='unix'><source mode='bind' path='", console,
                    "'/><target port='0'/></serial>\n");
  }
  if (spec.entropy) {
    devices +=
        "<rng model='virtio'><backend model='random'>/dev/urandom</backend>"
        "<address type='virtio-mmio'/></rng>\n";
  }
  return absl::Substitute(
      "<domain type='$0'>\n"
      "<name>$1$7</name>\n"
      "<uuid>$7</uuid>\n"
      "<metadata><hearth:owner xmlns:hearth='$9'>$8</hearth:owner></metadata>\n"
      "<memory unit='MiB'>$2</memory>\n"
      "<vcpu>$3</vcpu>\n"
      "<os><type arch='x86_64' machine='microvm'>hvm</type>$4</os>\n"
      "<cpu mode='$5'/>\n"
      // A guest ends by a reset, and shall stay ended.
      "<on_poweroff>destroy</on_poweroff><on_reboot>destroy</on_reboot>"
      "<on_crash>destroy</on_crash>\n"
      "<devices>\n"
      "<controller type='usb' model='none'/>\n"
      "$6"
      "<memballoon model='none'/>\n"
      "</devices>\n"
      "</domain>\n",
      spec.kvm ? "kvm" : "qemu", kDomainPrefix, spec.memory_mib, spec.vcpu_count, boot,
      spec.kvm ? "host-passthrough" : "maximum", devices, spec.uuid, owner, kOwnerNamespace);
}

}  // namespace hearth::libvirt

// SPDX-License-Identifier: Apache-2.0
#include "control-plane/backend/libvirt/domain_xml.h"

#include <catch2/catch.hpp>

#include "absl/strings/match.h"
#include "control-plane/backend/libvirt/limits.h"

namespace hearth::libvirt {
namespace {

DomainSpec Small() {
  DomainSpec spec;
  spec.uuid = "01890a5d-ac96-774b-bcce-b302099a8057";
  spec.memory_mib = 128;
  spec.kernel_path = "/run/hearth/libvirt/kernels/k";
  spec.command_line = "root=/dev/vda ro";
  spec.disks = {{"agent", true}, {"scratch", false}};
  spec.entropy = true;
  spec.agent_socket = "/run/hearth/libvirt/a.agent";
  spec.console_socket = "/run/hearth/libvirt/a.console";
  return spec;
}

TEST_CASE("xml: what has a meaning in XML is escaped, all else stays") {
  CHECK(*EscapeXml("plain-1.0_x /=") == "plain-1.0_x /=");
  CHECK(*EscapeXml("<&>\"'") == "&lt;&amp;&gt;&quot;&apos;");
  CHECK(*EscapeXml("]]></cmdline><qemu:arg value='-S'/>") ==
        "]]&gt;&lt;/cmdline&gt;&lt;qemu:arg value=&apos;-S&apos;/&gt;");
  CHECK(*EscapeXml("&amp;") == "&amp;amp;");
  CHECK(*EscapeXml("g\xC3\xBCte \xE2\x82\xAC \xF0\x9F\x94\xA5") ==
        "g\xC3\xBCte \xE2\x82\xAC \xF0\x9F\x94\xA5");
}

TEST_CASE("xml: what XML cannot hold is refused") {
  using std::string_literals::operator""s;
  for (const std::string& text :
       {"\0"s, "a\nb"s, "\x1B[31m"s, "\xFF"s, "\xC0\x80"s, "\xED\xA0\x80"s, "\xEF\xBF\xBF"s,
        "\xE2\x82"s, "\xF4\x90\x80\x80"s, "\xC3"s}) {
    CAPTURE(text);
    CHECK(absl::IsInvalidArgument(EscapeXml(text).status()));
  }
}

TEST_CASE("xml: a domain names its processor, disks, channel and console") {
  const std::string xml = *DomainXml(Small());
  for (const char* part :
       {"<domain type='qemu'>", "<cpu mode='maximum'/>", "machine='microvm'",
        "<memory unit='MiB'>128</memory>", "fdgroup='vda'", "<readonly/><serial>agent</serial>",
        "<target dev='vdb' bus='virtio'/><serial>scratch</serial>",
        "<target type='virtio' name='agent'/>", "path='/run/hearth/libvirt/a.agent'",
        "<serial type='unix'><source mode='bind' path='/run/hearth/libvirt/a.console'/>",
        "<rng model='virtio'>", "<on_reboot>destroy</on_reboot>"}) {
    CAPTURE(part);
    CHECK(absl::StrContains(xml, part));
  }
  DomainSpec spec = Small();
  spec.kvm = true;
  spec.console_socket.clear();
  spec.entropy = false;
  const std::string other = *DomainXml(spec);
  CHECK(absl::StrContains(other, "<domain type='kvm'>"));
  CHECK(absl::StrContains(other, "<cpu mode='host-passthrough'/>"));
  CHECK(absl::StrContains(other, "<serial type='null'>"));
  CHECK_FALSE(absl::StrContains(other, "<rng"));
}

TEST_CASE("xml: a hostile command line stays a command line") {
  DomainSpec spec = Small();
  spec.command_line = "x</cmdline></os><devices><hostdev/></devices><os><cmdline>$0 $9";
  const std::string xml = *DomainXml(spec);
  CHECK_FALSE(absl::StrContains(xml, "<hostdev"));
  CHECK(absl::StrContains(xml, "<cmdline>x&lt;/cmdline&gt;"));
  CHECK(absl::StrContains(xml, "$0 $9</cmdline>"));
}

TEST_CASE("xml: limits hold at their edge") {
  DomainSpec spec = Small();
  spec.memory_mib = kMinGuestMemoryMib;
  CHECK(DomainXml(spec).ok());
  spec.memory_mib = kMinGuestMemoryMib - 1;
  CHECK(absl::IsInvalidArgument(DomainXml(spec).status()));
  spec = Small();
  spec.vcpu_count = kMaxVcpus + 1;
  CHECK(absl::IsInvalidArgument(DomainXml(spec).status()));
  spec.vcpu_count = 0;
  CHECK(absl::IsInvalidArgument(DomainXml(spec).status()));
  spec = Small();
  spec.disks.resize(kMaxDisks);
  CHECK(DomainXml(spec).ok());
  spec.disks.resize(kMaxDisks + 1);
  CHECK(absl::IsInvalidArgument(DomainXml(spec).status()));
  spec = Small();
  spec.disks[0].serial = std::string(kMaxSerialBytes, 'a');
  CHECK(DomainXml(spec).ok());
  spec.disks[0].serial += "a";
  CHECK(absl::IsInvalidArgument(DomainXml(spec).status()));
  spec.disks[0].serial = "a,b=c";
  CHECK(absl::IsInvalidArgument(DomainXml(spec).status()));
  spec = Small();
  spec.command_line = std::string(kMaxCommandLineBytes, 'a');
  CHECK(DomainXml(spec).ok());
  spec.command_line += "a";
  CHECK(absl::IsInvalidArgument(DomainXml(spec).status()));
}

TEST_CASE("xml: the agent is reached by a port of the machine's, or over vsock") {
  DomainSpec spec = Small();
  spec.agent_socket = "/run/a.agent";
  std::string xml = *DomainXml(spec);
  CHECK(absl::StrContains(xml, "path='/run/a.agent'"));
  CHECK_FALSE(absl::StrContains(xml, "<vsock"));
  spec.vsock_cid = 4'294'967'294;
  xml = *DomainXml(spec);
  CHECK(absl::StrContains(xml, "<cid auto='no' address='4294967294'/>"));
  CHECK_FALSE(absl::StrContains(xml, "virtio-serial"));
}

TEST_CASE("xml: a UUID is told from what is none") {
  CHECK(IsUuid("0192f4a0-0000-7abc-8def-0123456789ab"));
  for (const char* text :
       {"", "0192f4a0-0000-7abc-8def-0123456789aB", "0192f4a0-0000-7abc-8def-0123456789a",
        "0192f4a0-0000-7abc-8def-0123456789abc", "0192f4a0x0000-7abc-8def-0123456789ab"}) {
    CHECK_FALSE(IsUuid(text));
  }
  CHECK_FALSE(IsUuid(absl::string_view("0192f4a0-0000-7abc-8def-012345678\0ab", 36)));
}

TEST_CASE("xml: a domain is ours by its name and by its owner, both in full") {
  DomainSpec spec = Small();
  CHECK(IsDomainName(NameOf(spec)));
  for (const char* name : {"hearth-db", "hearth-", "01890a5d-ac96-774b-bcce-b302099a8057",
                           "hearth-01890a5d-ac96-774b-bcce-b302099a8057-2"}) {
    CAPTURE(name);
    CHECK_FALSE(IsDomainName(name));
  }
  spec.owner = OwnerTag("/run/an operator's <run>");
  const std::string element =
      "<hearth:owner xmlns:hearth='urn:hearth:owner'>/run/an%20operator%27s%20%3Crun%3E"
      "</hearth:owner>";
  CHECK(absl::StrContains(*DomainXml(spec), "<metadata>" + element + "</metadata>"));
  CHECK(IsOwner(element, spec.owner));
  CHECK_FALSE(IsOwner(element, OwnerTag("/run/an operator's")));
  CHECK_FALSE(IsOwner(element, OwnerTag("s <run>")));
  CHECK_FALSE(IsOwner("<owner/>", OwnerTag("/run")));
}

TEST_CASE("xml: a restored domain has no kernel of its own, and its id decides its name") {
  DomainSpec spec = Small();
  spec.kernel_path.clear();
  const std::string xml = *DomainXml(spec);
  CHECK_FALSE(absl::StrContains(xml, "<kernel>"));
  CHECK_FALSE(absl::StrContains(xml, "<cmdline>"));
  CHECK(absl::StrContains(xml, "<name>hearth-01890a5d-ac96-774b-bcce-b302099a8057</name>"));
  CHECK(absl::StrContains(xml, "<uuid>01890a5d-ac96-774b-bcce-b302099a8057</uuid>"));
  spec.uuid = "x</name>";
  CHECK(absl::IsInvalidArgument(DomainXml(spec).status()));
}

}  // namespace
}  // namespace hearth::libvirt

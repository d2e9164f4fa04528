// SPDX-License-Identifier: Apache-2.0
// Devices restored from a state that somebody has altered, and then used by a hostile driver. The
// state begins as a real one, of devices whose drivers got as far as the input likes.
#include <google/protobuf/stubs/logging.h>

#include <cstdlib>
#include <string>

#include "tests/fuzz/hostile_driver.h"
#include "vmm/devices/devices_fake.h"

using namespace hearth;
using namespace hearth::vmm;

namespace {

uint32_t AnyValue(FuzzedDataProvider& input) {
  constexpr std::array<uint32_t, 14> kEdges = {
      0, 1, 2, 3, 11, 15, 64, 128, 255, 256, 0xffff, 0x10000, 0x40000000, UINT32_MAX};
  return input.ConsumeBool() ? input.PickValueInArray(kEdges) : input.ConsumeIntegral<uint32_t>();
}

uint64_t AnyAddress(FuzzedDataProvider& input) {
  constexpr std::array<uint64_t, 6> kBases = {0,
                                              MmioDriverFake::kRings.value(),
                                              MmioDriverFake::kBuffers.value(),
                                              MmioDriverFake::kRamBytes - 16,
                                              0x100000000,
                                              UINT64_MAX - 16};
  return input.PickValueInArray(kBases) + input.ConsumeIntegral<uint8_t>();
}

void AlterQueue(v1::SavedQueue& queue, FuzzedDataProvider& input) {
  switch (input.ConsumeIntegralInRange<int>(0, 8)) {
    case 0:
      queue.set_size(AnyValue(input));
      break;
    case 1:
      queue.set_ready(!queue.ready());
      break;
    case 2:
      queue.set_broken(!queue.broken());
      break;
    case 3:
      queue.set_descriptors(AnyAddress(input));
      break;
    case 4:
      queue.set_driver_area(AnyAddress(input));
      break;
    case 5:
      queue.set_device_area(AnyAddress(input));
      break;
    case 6:
      queue.set_next_avail(AnyValue(input));
      break;
    case 7:
      queue.set_next_used(AnyValue(input));
      break;
    default:  // Together, so that they pass for a place further on.
      queue.set_next_avail(AnyValue(input));
      queue.set_next_used(queue.next_avail());
      queue.set_signalled_used(queue.next_avail());
      break;
  }
}

void AlterTransport(v1::SavedTransport& transport, FuzzedDataProvider& input) {
  switch (input.ConsumeIntegralInRange<int>(0, 6)) {
    case 0:
      transport.set_status(AnyValue(input));
      break;
    case 1:
      transport.set_needs_reset(!transport.needs_reset());
      break;
    case 2:
      transport.set_queue_select(AnyValue(input));
      break;
    case 3:
      transport.set_interrupt_status(AnyValue(input));
      break;
    case 4:
      transport.set_driver_features(transport.driver_features() ^
                                    (uint64_t{1} << input.ConsumeIntegralInRange<int>(0, 63)));
      break;
    default:
      if (transport.queues_size() == 0) break;
      AlterQueue(*transport.mutable_queues(
                     input.ConsumeIntegralInRange<int>(0, transport.queues_size() - 1)),
                 input);
      break;
  }
}

void AlterOwn(v1::SavedDevices& saved, FuzzedDataProvider& input) {
  v1::SavedVsock& vsock = *saved.mutable_virtio(DevicesFake::kVsock)->mutable_vsock();
  switch (input.ConsumeIntegralInRange<int>(0, 5)) {
    case 0:
      vsock.set_guest_cid(AnyValue(input));
      break;
    case 1:
      vsock.set_next_host_port(AnyValue(input));
      break;
    case 2:
      vsock.set_reset_unanswered(!vsock.reset_unanswered());
      vsock.set_reset_avail(AnyValue(input));
      break;
    case 3:
      saved.mutable_serial()->set_interrupt_enable(AnyValue(input));
      break;
    case 4:
      saved.mutable_serial()->set_received(input.ConsumeRandomLengthString(80));
      break;
    default:
      saved.mutable_serial()->set_modem_control(AnyValue(input));
      break;
  }
}

// Any change of the bytes, as far as they still are a message.
void AlterBytes(v1::SavedDevices& saved, FuzzedDataProvider& input) {
  std::string bytes = saved.SerializeAsString();
  if (bytes.empty()) return;
  const size_t at = input.ConsumeIntegralInRange<size_t>(0, bytes.size() - 1);
  const auto byte = static_cast<char>(input.ConsumeIntegral<uint8_t>());
  switch (input.ConsumeIntegralInRange<int>(0, 3)) {
    case 0:
      bytes[at] = byte;
      break;
    case 1:
      bytes.insert(at, 1, byte);
      break;
    case 2:
      bytes.erase(at, input.ConsumeIntegralInRange<size_t>(1, 64));
      break;
    default:
      bytes += input.ConsumeRandomLengthString(64);
      break;
  }
  v1::SavedDevices altered;
  if (altered.ParseFromString(bytes)) saved = altered;
}

void UseSerial(Serial& serial, FuzzedDataProvider& input) {
  std::array<uint8_t, 1> byte = {input.ConsumeIntegral<uint8_t>()};
  const uint64_t port = input.ConsumeIntegralInRange<uint64_t>(0, kSerialPorts - 1);
  input.ConsumeBool() ? serial.Write(port, byte) : serial.Read(port, byte);
}

void UseDevices(DevicesFake& devices, FuzzedDataProvider& input, int times) {
  for (int i = 0; i < times && input.remaining_bytes() != 0; ++i) {
    const auto index = input.ConsumeIntegralInRange<size_t>(0, DevicesFake::kCount);
    if (index == DevicesFake::kCount) {
      UseSerial(devices.serial(), input);
    } else {
      DoHostileThing(devices.driver(index), input);
    }
    if (input.ConsumeIntegral<uint8_t>() == 0) devices.RunLoop();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const google::protobuf::LogSilencer silence;  // Text that is no UTF-8 is said on standard error.
  FuzzedDataProvider input(data, size);
  DevicesFake source;
  for (size_t i = 0; i < DevicesFake::kCount; ++i) {
    if (input.ConsumeBool()) source.driver(i).Start(input.ConsumeBool());
  }
  UseDevices(source, input, input.ConsumeIntegralInRange<int>(0, 20));
  v1::SavedDevices saved = source.Save();
  for (int i = input.ConsumeIntegralInRange<int>(0, 6); i > 0; --i) {
    switch (input.ConsumeIntegralInRange<int>(0, 3)) {
      case 0:
        AlterBytes(saved, input);
        break;
      case 1:
        if (saved.virtio_size() == DevicesFake::kCount) AlterOwn(saved, input);
        break;
      default:
        if (saved.virtio_size() == 0) break;
        AlterTransport(
            *saved.mutable_virtio(input.ConsumeIntegralInRange<int>(0, saved.virtio_size() - 1))
                 ->mutable_transport(),
            input);
        break;
    }
  }
  DevicesFake copy(DevicesFake::Options(), std::move(source));
  const absl::Status status = copy.Restore(saved);
  if (!status.ok()) {
    if (status.code() != absl::StatusCode::kInvalidArgument &&
        status.code() != absl::StatusCode::kFailedPrecondition) {
      abort();
    }
    return 0;
  }
  if (!SaveDevices(copy.views()).ok()) abort();
  UseDevices(copy, input, kMaxHostileThings);
  if (!SaveDevices(copy.views()).ok()) abort();
  return 0;
}

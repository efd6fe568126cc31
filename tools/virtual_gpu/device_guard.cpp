// CUDA's device guard and hooks without CUDA: what lets a CPU-only torch carry tensors whose device is cuda:0.
//
// There is one device and one stream, and nothing ever has to be waited for. Autograd gets its device thread from the
// guard; generators, pinned memory and the current device come from the hooks. Must be loaded before torch is imported,
// because torch looks for its hooks once.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <memory>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

Device the_device() { return Device(DeviceType::CUDA, 0); }
Stream the_stream() { return Stream(Stream::DEFAULT, the_device()); }

struct DeviceGuard final : public c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  Device getDevice() const override { return the_device(); }
  Device exchangeDevice(Device) const override { return the_device(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  void synchronizeDevice(const DeviceIndex) const override {}

  Stream getStream(Device) const noexcept override { return the_stream(); }
  Stream getDefaultStream(Device) const override { return the_stream(); }
  Stream getNewStream(Device, int) const override { return the_stream(); }
  Stream exchangeStream(Stream) const noexcept override { return the_stream(); }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}

  void record(void**, const Stream&, const DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void synchronizeEvent(void*) const override {}
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
};

// A generator with the numbers of the CPU's, whose device is the GPU.
struct DeviceGenerator : public at::CPUGeneratorImpl {
  explicit DeviceGenerator(uint64_t seed) : at::CPUGeneratorImpl(seed) { device_ = the_device(); }
};

struct DeviceHooks final : public at::CUDAHooksInterface {
  explicit DeviceHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasCUDART() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }

  DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  void deviceSynchronize(DeviceIndex) const override {}

  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  c10::Allocator* getCUDADeviceAllocator() const override { return c10::GetCPUAllocator(); }

  const at::Generator& getDefaultGenerator(DeviceIndex) const override {
    static at::Generator generator = getNewGenerator(0);
    return generator;
  }
  at::Generator getNewGenerator(DeviceIndex) const override {
    return at::make_generator<DeviceGenerator>(c10::detail::getNonDeterministicRandom());
  }
};

DeviceGuard guard;

struct Registration {
  Registration() {
    c10::impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)].store(&guard);
    at::CUDAHooksRegistry()->Register(
        "CUDAHooks",
        [](at::CUDAHooksArgs args) -> std::unique_ptr<at::CUDAHooksInterface> {
          return std::make_unique<DeviceHooks>(args);
        },
        "hooks of the pretend GPU",
        c10::REGISTRY_PREFERRED);
  }
} registration;

}  // namespace

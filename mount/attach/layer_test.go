package attach

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/mount"
)

// TestBelowLayer: what lies below a layer over the root is read-only. Nobody
// inside sees it, but who may unmount could come to it; a mount in the tree
// that has its own layer is read-only below that, too.
func TestBelowLayer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	top := t.TempDir()
	if err := os.Mkdir(filepath.Join(top, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		tr, err := BeginAs(sys.Lock(), How{Namespace: -1})
		if err != nil {
			t.Error(err)
			return
		}
		defer tr.Close()
		for _, s := range []plan.Step{
			{Do: plan.Tree, Target: "/", Source: mount.Path{Path: top}},
			{Do: plan.Layer, Target: "/", AllAttr: unix.MOUNT_ATTR_RDONLY, Like: true},
		} {
			if err := tr.Do(s); err != nil {
				t.Error(err)
				return
			}
		}
		if err := sys.Mkdirat(tr.Root(), "dir/made", 0o755); err != nil {
			t.Errorf("in the layer: %v", err)
		}
		if err := sys.Mkdirat(tr.below, "dir/made", 0o755); err != unix.EROFS {
			t.Errorf("below the layer: %v, want EROFS", err)
		}
	}()
	<-done
}
